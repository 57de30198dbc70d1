"""`featup eval cam`: class activation maps that find what a classifier needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.evaluate import common
from featup_cli.cli.options import INPUT, METHOD
from featup_cli.core.errors import UsageError
from featup_cli.upsamplers.implicit.config import implicit_config

EXAMPLES = (
    "Examples:  featup eval cam photos/ --backbone mobilenetv2  |  "
    "featup eval cam val/ --labels val.txt --backbone resnet50 --methods bilinear,jbu -o run.json"
)


@report_errors
def cam(
    images: common.Images,
    backbone: options.BackboneName,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="List of `picture class` lines; leave out pictures that the network classifies otherwise, "
            "as the paper does.",
            show_default=False, rich_help_panel=INPUT,
        ),
    ] = None,
    limit: common.Limit = None,
    resize: options.Resize = None,
    weights: options.Weights = None,
    backbone_arg: options.BackboneArg = None,
    offline: options.Offline = False,
    random_weights: options.RandomWeights = False,
    precision: options.PrecisionOption = options.Precision.auto,  # type: ignore[attr-defined]
    target: Annotated[
        int | None,
        typer.Option(
            "--class", min=0, help="Explain this class. (default: the one that the network predicts)",
            show_default=False, rich_help_panel=METHOD,
        ),
    ] = None,
    blur: Annotated[
        float,
        typer.Option(
            "--blur", min=0.001, max=1.0, rich_help_panel=METHOD,
            help="Blur of the hidden half: standard deviation as a share of the short side.",
        ),
    ] = 0.05,
    methods: common.Methods = "fast",
    preset: options.PresetOption = options.Preset.default,  # type: ignore[attr-defined]
    settings: options.Settings = None,
    upsampler: common.UpsamplerWeights = None,
    allow_other_backbone: options.AllowOtherBackbone = False,
    output: common.RunFile = None,
    seed: options.Seed = 0,
    fast: common.Fast = True,
    cache: common.CacheFolder = common.DEFAULT_CACHE,
    no_cache: common.NoCache = False,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: common.RunJson = False,
) -> None:  # fmt: skip
    """Average Drop and Average Increase of a classifier's class activation maps; needs no labels."""
    console = Console(quiet, as_json)
    config = implicit_config(preset.value, {}, settings or [])
    chosen = options.backbone_config(backbone, None, False, weights, backbone_arg, offline, random_weights, precision)

    from featup_cli.backbones.timm.classifier import load_classifier
    from featup_cli.core.describe import choose_device
    from featup_cli.evaluation.cam import CamTask, keep_recognised, read_targets
    from featup_cli.evaluation.consistency import PictureItem
    from featup_cli.evaluation.data import spread_evenly
    from featup_cli.evaluation.run import evaluate
    from featup_cli.evaluation.source import choose_methods

    items = [PictureItem(path) for path in spread_evenly(common.find_images(images), limit)]
    targets = read_targets(labels) if labels is not None else None
    classifier = load_classifier(chosen, choose_device(device))
    if target is not None and target >= len(classifier.weight):
        raise UsageError(f"--class {target}: {backbone} has the classes 0 to {len(classifier.weight) - 1}")
    record: dict[str, object] = {"data": common.name_of(images)}
    with console.progress() as progress:
        source = common.make_source(
            chosen, config, resize, allow_other_backbone, upsampler, fast, device, seed, progress, classifier.backbone
        )
        names = choose_methods(methods, source, console.note)
        if targets is not None:
            record["labelled"] = len(items)
            items = keep_recognised(source, classifier, items, targets, progress)
            console.note(
                f"{len(items)} of {record['labelled']} pictures are classified as labelled; others are left out"
            )
        run = evaluate(
            CamTask(classifier, blur, target), items, names, source, cache=common.make_cache(cache, no_cache),
            progress=progress, record=record,
        )  # fmt: skip
    common.finish(run, output, console)
