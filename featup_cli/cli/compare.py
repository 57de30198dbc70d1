"""`featup compare`: every method's features of one picture, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.evaluate import common
from featup_cli.cli.options import OUTPUT
from featup_cli.core.errors import UsageError
from featup_cli.upsamplers.implicit.config import implicit_config

EXAMPLES = "Example:  featup compare photo.jpg --methods bilinear,implicit -o compare.png"


@report_errors
def compare(
    image: Annotated[Path, typer.Argument(help="A picture.", metavar="IMAGE")],
    resize: options.Resize = None,
    backbone: options.BackboneName = "tiny",
    layer: options.Layer = None,
    no_norm: options.NoNorm = False,
    weights: options.Weights = None,
    backbone_arg: options.BackboneArg = None,
    offline: options.Offline = False,
    random_weights: options.RandomWeights = False,
    precision: options.PrecisionOption = options.Precision.auto,  # type: ignore[attr-defined]
    methods: common.Methods = "bilinear,jbu,resfu,implicit",
    preset: options.PresetOption = options.Preset.default,  # type: ignore[attr-defined]
    settings: options.Settings = None,
    upsampler: common.UpsamplerWeights = None,
    allow_other_backbone: options.AllowOtherBackbone = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="The PNG to write.", rich_help_panel=OUTPUT)] = Path(
        "compare.png"
    ),
    output_size: options.OutputSize = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Show picture, low-resolution features and each method's in one PCA basis, with time and memory below."""
    console = Console(quiet, as_json)
    config = implicit_config(preset.value, {}, settings or [])
    chosen = options.backbone_config(
        backbone, layer, no_norm, weights, backbone_arg, offline, random_weights, precision
    )
    if output.exists() and image.exists() and output.samefile(image):
        raise UsageError(f"{output}: would be overwritten, but it is the input; choose another --output")

    from featup_cli.evaluation import comparison
    from featup_cli.evaluation.source import choose_methods
    from featup_cli.pictures.panels import save_png

    with console.progress() as progress:
        source = common.make_source(
            chosen, config, resize, allow_other_backbone, upsampler, True, device, seed, progress
        )
        names = choose_methods(methods, source, console.note)
        result = comparison.compare(source, image, names, progress, output_size)
    save_png(output, result.rgb)
    for row in result.rows:
        memory = "" if row["peak_mib"] is None else f", {row['peak_mib']:.0f} MiB"
        console.note(f"{row['method']}: {row['seconds']:.2f} s{memory}")
    console.result(str(output), {"input": str(image), "picture": str(output), "methods": result.rows})
