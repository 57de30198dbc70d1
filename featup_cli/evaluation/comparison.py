"""One picture, every method, one colour basis: FeatUp, figure 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from featup_cli.core.memory import MIB, peak_memory
from featup_cli.core.progress import Progress
from featup_cli.core.shapes import resolve_output_size
from featup_cli.evaluation.source import FeatureSource
from featup_cli.pictures.panels import fit_colours, panel_size, resize_rgb, sample_tokens, side_by_side
from featup_cli.pictures.visualize import DEFAULT_COMPONENTS, MAP_TOKENS


@dataclass(frozen=True)
class Comparison:
    """Features of one picture by several methods.

    Attributes:
        rgb: uint8 [H, W, 3]: picture, low-resolution features, then a panel for each method.
        rows: method, `seconds` of the upsampler and `peak_mib` above what was in memory before it (None where it
            can't be measured), as JSON values.
    """

    rgb: np.ndarray
    rows: list[dict[str, Any]]


def compare(
    source: FeatureSource,
    picture: Path | str,
    methods: Sequence[str],
    progress: Progress,
    output_size: str | tuple[int, int] | None = None,
) -> Comparison:
    """Upsample by each method and show all in one basis.

    The three components and their scale are fitted to the low-resolution features (section 4.1) and used for all
    panels. Full-resolution features are held of one method at a time. The first call of a method in a process may
    include compilation.

    Args:
        output_size: as for `featup upsample`; None is the network input's size.
    Raises:
        InputError, UsageError: the picture, or a size, can't be used.
    """
    look = source.look(picture)
    height, width = look.lr_feats.shape[2:]
    size = resolve_output_size(output_size, look.picture.size, look.network_size, (height, width))
    colours = fit_colours([sample_tokens(look.lr_feats[0], MAP_TOKENS)], DEFAULT_COMPONENTS)
    panels = [
        ("Image", look.picture.pixels),
        (f"Low resolution, {height} x {width}", colours.picture(look.lr_feats[0])),
    ]
    captions = ["", f"{look.seconds:.2f} s (backbone)"]
    rows: list[dict[str, Any]] = []
    for number, method in enumerate(methods):
        progress("methods", number, len(methods), method)
        made: list[tuple[Tensor, float]] = []

        def make(method: str = method, made: list[tuple[Tensor, float]] = made) -> None:
            made.append(source.features(method, look, size))

        peak = peak_memory(make, source.device)
        features, seconds = made.pop()
        panels.append((method, colours.picture(features.cpu())))
        row = {
            "method": method, "seconds": seconds - look.seconds,
            "peak_mib": None if peak.above_bytes is None else peak.above_bytes / MIB,
        }  # fmt: skip
        captions.append(f"{row['seconds']:.2f} s" + (f", {row['peak_mib']:.0f} MiB" if peak.above_bytes else ""))
        rows.append(row)
    progress("methods", len(methods), len(methods), "")
    panel = panel_size(size)
    fitted = [(title, resize_rgb(rgb, panel)) for title, rgb in panels]
    return Comparison(side_by_side(fitted, panel[0], captions), rows)
