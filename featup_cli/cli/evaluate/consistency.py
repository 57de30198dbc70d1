"""`featup eval consistency`: unseen views explained, without labels."""

from __future__ import annotations

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.evaluate import common
from featup_cli.upsamplers.implicit.config import implicit_config

EXAMPLES = (
    "Examples:  featup eval consistency photos/  |  "
    "featup eval consistency a.jpg b.jpg --methods bilinear,implicit -o run.json"
)


@report_errors
def consistency(
    images: common.Images,
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
    fast: common.Fast = True,
    cache: common.CacheFolder = common.DEFAULT_CACHE,
    no_cache: common.NoCache = False,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: common.RunJson = False,
) -> None:
    """Share of the variance of unseen jittered views that each method's features explain; needs no labels."""
    console = Console(quiet, as_json)
    config = implicit_config(preset.value, {}, settings or [])
    chosen = options.backbone_config(
        backbone, layer, no_norm, weights, backbone_arg, offline, random_weights, precision
    )

    from featup_cli.evaluation.consistency import ConsistencyTask, PictureItem
    from featup_cli.evaluation.data import spread_evenly
    from featup_cli.evaluation.run import evaluate
    from featup_cli.evaluation.source import choose_methods

    items = [PictureItem(path) for path in spread_evenly(common.find_images(images), limit)]
    with console.progress() as progress:
        source = common.make_source(
            chosen, config, resize, allow_other_backbone, upsampler, fast, device, seed, progress
        )
        names = choose_methods(methods, source, console.note)
        run = evaluate(
            ConsistencyTask(config), items, names, source, cache=common.make_cache(cache, no_cache), progress=progress,
            record={"data": common.name_of(images)},
        )  # fmt: skip
    common.finish(run, output, console)
