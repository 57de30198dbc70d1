"""One picture, every method, one colour basis: FeatUp, figure 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.core.checks import checked
from featup_cli.core.memory import MIB, peak_memory
from featup_cli.core.shapes import Size, resolve_output_size
from featup_cli.evaluation.registry import COMPARED
from featup_cli.evaluation.run import Evaluation
from featup_cli.evaluation.source import Request
from featup_cli.pictures.panels import (
    DEFAULT_COMPONENTS,
    MAP_TOKENS,
    fit_colours,
    panel_size,
    resize_rgb,
    sample_tokens,
    side_by_side,
)


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


@checked
def compare(
    image: Any,
    *,
    methods: str | Sequence[str] = COMPARED,
    backbone: str | BackboneConfig | Backbone = "tiny",
    output_size: str | int | Size | None = None,
    **options: Any,
) -> Comparison:
    """Upsample by each method and show all in one basis: what `featup compare` does, in memory.

    The three components and their scale are fitted to the low-resolution features (section 4.1) and used for all
    panels. Full-resolution features are held of one method at a time. The first call of a method in a process may
    include compilation.

    Args:
        image: one picture, in any form that `upsample` takes.
        methods, backbone: as for `evaluate`.
        output_size: as for `upsample`; None is the network input's size.
        options: other fields of `evaluation.source.Request`: `resize`, `implicit`, `device`, `progress`, ...
    Raises:
        InputError, UsageError: the picture, a method or a size can't be used.

    Example:
        >>> import numpy as np, featup_cli as featup
        >>> noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        >>> shown = featup.compare(noise, methods="bilinear,guided", resize=48, device="cpu")
        >>> [row["method"] for row in shown.rows], shown.rgb.shape[2]
        (['bilinear', 'guided'], 3)
    """
    evaluation = Evaluation(Request(methods, backbone, **options))
    source = evaluation.source
    look = source.look(image)
    size = resolve_output_size(output_size, look.picture.size, look.plan.network, look.plan.grid)
    colours = fit_colours([sample_tokens(look.lr_feats[0], MAP_TOKENS)], DEFAULT_COMPONENTS)
    panels = [
        ("Image", look.picture.pixels),
        ("Low resolution, {} x {}".format(*look.plan.grid), colours.picture(look.lr_feats[0])),
    ]
    captions = ["", f"{look.seconds:.2f} s (backbone)"]
    rows: list[dict[str, Any]] = []
    for method in evaluation.each("methods", evaluation.methods):
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
    panel = panel_size(size)
    fitted = [(title, resize_rgb(rgb, panel)) for title, rgb in panels]
    return Comparison(side_by_side(fitted, panel[0], captions), rows)
