"""`featup eval boundary`: edges of features against boundaries that people drew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.evaluate import common
from featup_cli.cli.options import INPUT
from featup_cli.upsamplers.implicit.config import implicit_config

EXAMPLES = "Example:  featup eval boundary bsds --split val --methods bilinear,jbu --limit 20 -o run.json"


@report_errors
def boundary(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with SPLIT.txt lists of `picture boundaries.npz` lines, or images/SPLIT and boundaries/SPLIT."
        ),
    ],
    split: Annotated[
        str, typer.Option("--split", help="Split to score: its name, or a list file.", rich_help_panel=INPUT)
    ] = "val",
    limit: common.Limit = None,
    resize: options.Resize = None,
    backbone: options.BackboneName = "tiny",
    layer: options.Layer = None,
    no_norm: options.NoNorm = False,
    weights: options.Weights = None,
    backbone_arg: options.BackboneArg = None,
    offline: options.Offline = False,
    random_weights: options.RandomWeights = False,
    precision: options.PrecisionOption = options.Precision.auto,  # type: ignore[attr-defined]
    methods: common.Methods = "fast",
    preset: options.PresetOption = options.Preset.default,  # type: ignore[attr-defined]
    settings: options.Settings = None,
    upsampler: common.UpsamplerWeights = None,
    allow_other_backbone: options.AllowOtherBackbone = False,
    output: common.RunFile = None,
    seed: options.Seed = 0,
    cache: common.CacheFolder = common.DEFAULT_CACHE,
    no_cache: common.NoCache = False,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: common.RunJson = False,
) -> None:
    """Precision, recall and F of feature edges against the boundaries of several annotators (BSDS layout)."""
    console = Console(quiet, as_json)
    config = implicit_config(preset.value, {}, settings or [])
    chosen = options.backbone_config(
        backbone, layer, no_norm, weights, backbone_arg, offline, random_weights, precision
    )

    from featup_cli.evaluation.boundary import BoundaryTask, read_boundaries
    from featup_cli.evaluation.data import find_pairs, find_problems, spread_evenly
    from featup_cli.evaluation.run import evaluate
    from featup_cli.evaluation.source import choose_methods

    pairs = spread_evenly(find_pairs(data, split, "boundaries", (".npz",)), limit)
    common.refuse_problems(find_problems(pairs, read_boundaries), console)
    with console.progress() as progress:
        source = common.make_source(
            chosen, config, resize, allow_other_backbone, upsampler, True, device, seed, progress
        )
        names = choose_methods(methods, source, console.note)
        run = evaluate(
            BoundaryTask(), pairs, names, source, cache=common.make_cache(cache, no_cache), progress=progress,
            record={"data": data.name, "split": split},
        )  # fmt: skip
    common.finish(run, output, console)
