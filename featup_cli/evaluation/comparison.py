"""One picture, every method, one colour basis: FeatUp, figure 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from featup_cli.pictures.captions import backbone_name, components_name, method_name
from featup_cli.pictures.layout import Panel, panel_rows, size_text
from featup_cli.pictures.panels import DEFAULT_COMPONENTS, MAP_TOKENS, fit_colours, sample_tokens


@dataclass(frozen=True)
class Comparison:
    """Features of one picture by several methods.

    Attributes:
        rgb: uint8 [H, W, 3]: picture, low-resolution features, then a panel for each method, in rows of at most five;
            below them what all panels share.
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
    low = f"Low resolution, {size_text(look.plan.grid)}"
    panels = [
        Panel("Image", look.picture.pixels),
        Panel(low, colours.picture(look.lr_feats[0]), f"{look.seconds:.2f} s (backbone)"),
    ]
    rows: list[dict[str, Any]] = []
    for method in evaluation.each("methods", evaluation.methods):
        made: list[tuple[Tensor, float]] = []

        def make(method: str = method, made: list[tuple[Tensor, float]] = made) -> None:
            made.append(source.features(method, look, size))

        peak = peak_memory(make, source.device)
        features, seconds = made.pop()
        shown = colours.picture(features.cpu())
        row = {
            "method": method, "seconds": seconds - look.seconds,
            "peak_mib": None if peak.above_bytes is None else peak.above_bytes / MIB,
        }  # fmt: skip
        cost = f"{row['seconds']:.2f} s" + (f", {row['peak_mib']:.0f} MiB" if peak.above_bytes else "")
        name = method_name(method, source.describe_method(method)["upsampler"])
        panels.append(Panel(name, shown, cost))
        rows.append(row)
    lines = shared_lines(source.backbone.describe(), look.plan.network, size)
    return Comparison(panel_rows(panels, size, lines), rows)


def shared_lines(backbone: Mapping[str, Any], network: Size, output: Size) -> list[str]:
    """Lines below the panels: what all of them share; sizes are (height, width)."""
    sizes = "network input {} x {}; output {} x {} (height x width)".format(*network, *output)
    return [
        f"Backbone {backbone_name(backbone)}; {sizes}; {components_name(DEFAULT_COMPONENTS)}.",
        "Colours are fitted to the low-resolution features and the same in all panels; those of separate runs can't be "
        "compared.",
    ]
