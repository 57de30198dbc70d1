"""`featup eval probe`: a frozen linear probe on upsampled features."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.evaluate import common
from featup_cli.cli.options import INPUT, RUN
from featup_cli.upsamplers.implicit.config import implicit_config

EXAMPLES = (
    "Examples:  featup eval probe --task seg DATA -o run.json  |  "
    "featup eval probe --task seg camvid --split val --methods bilinear,implicit --limit 12 --resize 352x480  |  "
    "featup eval probe --task depth DATA --depth-scale 1000"
)


class ProbeTask(str, Enum):
    """What the probe predicts."""

    seg = "seg"
    depth = "depth"


@report_errors
def probe(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with SPLIT.txt lists of `picture label` lines, or images/SPLIT and labels/SPLIT "
            "(depth: depth/SPLIT)."
        ),
    ],
    task: Annotated[
        ProbeTask,
        typer.Option("--task", help="seg: class labels. depth: a number for each pixel.", rich_help_panel=INPUT),
    ],
    split: Annotated[
        str, typer.Option("--split", help="Split to score: its name, or a list file.", rich_help_panel=INPUT)
    ] = "val",
    train_split: Annotated[
        str, typer.Option("--train-split", help="Split to train the probe on.", rich_help_panel=INPUT)
    ] = "train",
    limit: common.Limit = None,
    train_limit: Annotated[
        int | None,
        typer.Option(
            "--train-limit", min=1, help="Train on this many pictures, evenly spaced. (default: all)",
            show_default=False, rich_help_panel=INPUT,
        ),
    ] = None,
    classes: common.ClassesFile = None,
    thin: common.ThinClasses = None,
    depth_scale: Annotated[
        float | None,
        typer.Option(
            "--depth-scale", min=1e-9, rich_help_panel=INPUT, show_default=False,
            help="depth: divide whole numbers (PNG) by this, e.g. 1000 for millimetres. (default: 1)",
        ),
    ] = None,
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
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=0, rich_help_panel=RUN,
            help="Further probes, each trained on a bootstrap draw of the training pictures: the training is convex, "
            "so its start changes nothing.",
        ),
    ] = 3,
    seed: options.Seed = 0,
    fast: common.Fast = True,
    cache: common.CacheFolder = common.DEFAULT_CACHE,
    no_cache: common.NoCache = False,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: common.RunJson = False,
) -> None:  # fmt: skip
    """Train a linear probe on low-resolution features, freeze it, apply it to the features of every method."""
    if task is ProbeTask.depth:
        common.refuse_given({"--classes": classes, "--thin": thin}, "belongs to --task seg")
    else:
        common.refuse_given({"--depth-scale": depth_scale}, "belongs to --task depth")
    console = Console(quiet, as_json)
    config = implicit_config(preset.value, {}, settings or [])
    chosen = options.backbone_config(
        backbone, layer, no_norm, weights, backbone_arg, offline, random_weights, precision
    )

    from featup_cli.evaluation.data import (
        Pair,
        find_pairs,
        find_problems,
        load_classes,
        read_class_labels,
        spread_evenly,
    )
    from featup_cli.evaluation.depth import DEPTH_FOLDER, DEPTH_SUFFIXES, read_depth, train_depth
    from featup_cli.evaluation.run import evaluate
    from featup_cli.evaluation.segmentation import train_segmentation
    from featup_cli.evaluation.source import choose_methods

    find: Callable[..., list[Pair]]
    read: Callable[[Path], Any]
    train_task: Callable[..., Any]
    if task is ProbeTask.seg:
        meanings = load_classes(classes or data / "classes.json", thin.split(",") if thin else None)
        find, read = find_pairs, partial(read_class_labels, classes=meanings)
        train_task = partial(train_segmentation, classes=meanings)
    else:
        find = partial(find_pairs, label_folder=DEPTH_FOLDER, suffixes=DEPTH_SUFFIXES)
        read = partial(read_depth, scale=depth_scale or 1.0)
        train_task = partial(train_depth, scale=depth_scale or 1.0)
    train = spread_evenly(find(data, train_split), train_limit)
    pairs = spread_evenly(find(data, split), limit)
    common.refuse_problems(find_problems([*train, *pairs], read), console)
    store = common.make_cache(cache, no_cache)
    with console.progress() as progress:
        source = common.make_source(
            chosen, config, resize, allow_other_backbone, upsampler, fast, device, seed, progress
        )
        names = choose_methods(methods, source, console.note)
        trained = train_task(source, train, resamples=seeds, cache=store, progress=progress)
        for fit in trained.settings["probe"]["fits"]:
            console.note(describe_fit(fit))
        run = evaluate(
            trained, pairs, names, source, cache=store, progress=progress,
            record={"data": data.name, "split": split, "train_split": train_split},
        )  # fmt: skip
    common.finish(run, output, console)


def describe_fit(fit: dict[str, float]) -> str:
    """One line about how the training of a probe ended."""
    text = f"probe: {fit['iterations']} iterations, gradient {fit['gradient']:.1e}, loss {fit['loss']:.4f}"
    return text if fit["converged"] else f"{text}; not converged: its scores may be too low"
