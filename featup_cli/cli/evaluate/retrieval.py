"""`featup eval retrieval`: the feature at a point of one picture finds its match in another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.evaluate import common
from featup_cli.cli.options import INPUT, OUTPUT
from featup_cli.core.errors import UsageError
from featup_cli.upsamplers.implicit.config import implicit_config

if TYPE_CHECKING:
    from featup_cli.core.progress import Progress
    from featup_cli.evaluation.source import FeatureSource

EXAMPLES = (
    "Examples:  featup eval retrieval a.jpg b.jpg --at 120,80 --methods bilinear,implicit -o retrieval.png  |  "
    "featup eval retrieval camvid --split val --limit 10 -o run.json"
)


@report_errors
def retrieval(
    source: Annotated[
        Path,
        typer.Argument(help="A picture, or a folder of labelled pictures as for `probe --task seg`.", metavar="SOURCE"),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(help="With a picture: where to look for its points.", metavar="[TARGET]", show_default=False),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at", metavar="X,Y", help="Pictures: a point of SOURCE in pixels from its upper left corner. Repeatable.",
            show_default=False, rich_help_panel=INPUT,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Folder: split to score, its name or a list file. (default: val)", show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    limit: common.Limit = None,
    points: Annotated[
        int | None,
        typer.Option(
            "--points", min=1, help="Folder: queries of each class and pair of pictures. (default: 10)",
            show_default=False, rich_help_panel=INPUT,
        ),
    ] = None,
    classes: common.ClassesFile = None,
    thin: common.ThinClasses = None,
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
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Pictures: the PNG to write (default: retrieval.png). Folder: the run as JSON.",
            show_default=False, rich_help_panel=OUTPUT,
        ),
    ] = None,
    seed: options.Seed = 0,
    cache: common.CacheFolder = common.DEFAULT_CACHE,
    no_cache: common.NoCache = False,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: common.RunJson = False,
) -> None:  # fmt: skip
    """Find points of a picture in another one, as a picture; or score matches between labelled pictures."""
    console = Console(quiet, as_json)
    of_folder = {"--split": split, "--limit": limit, "--points": points, "--classes": classes, "--thin": thin}
    if target is not None:
        common.refuse_given(of_folder, "is for a folder of labelled pictures, not for two pictures")
    else:
        common.refuse_given({"--at": at}, "needs a second picture to look in: SOURCE TARGET")
    config = implicit_config(preset.value, {}, settings or [])
    chosen = options.backbone_config(
        backbone, layer, no_norm, weights, backbone_arg, offline, random_weights, precision
    )
    make_source = partial(
        common.make_source, chosen, config, resize, allow_other_backbone, upsampler, True, device, seed
    )
    if target is not None:
        at_points = parse_points(at or [])
        where = output or Path("retrieval.png")
        if where.exists() and any(path.exists() and where.samefile(path) for path in (source, target)):
            raise UsageError(f"{where}: would be overwritten, but it is an input; choose another --output")
        show_matches(source, target, at_points, methods, where, make_source, console)
        return

    from featup_cli.evaluation.data import find_pairs, find_problems, load_classes, read_class_labels, spread_evenly
    from featup_cli.evaluation.retrieval import POINTS, RetrievalTask, make_matches
    from featup_cli.evaluation.run import evaluate
    from featup_cli.evaluation.source import choose_methods

    if source.is_file():
        raise UsageError(f"{source}: give a second picture to look in, and points with --at; or a folder with labels")
    meanings = load_classes(classes or source / "classes.json", thin.split(",") if thin else None)
    pairs = spread_evenly(find_pairs(source, split or "val"), limit)
    common.refuse_problems(find_problems(pairs, partial(read_class_labels, classes=meanings)), console)
    matches = make_matches(pairs)
    with console.progress() as progress:
        features = make_source(progress)
        names = choose_methods(methods, features, console.note)
        run = evaluate(
            RetrievalTask(meanings, points or POINTS), matches, names, features,
            cache=common.make_cache(cache, no_cache), progress=progress,
            record={"data": source.name, "split": split or "val"},
        )  # fmt: skip
    common.finish(run, output, console)


def show_matches(
    source: Path, target: Path, points: list[tuple[int, int]], methods: str, output: Path,
    make_source: Callable[[Progress], FeatureSource], console: Console,
) -> None:  # fmt: skip
    """Write the picture of figure 15 and report every match."""
    from featup_cli.evaluation.matches import find_matches
    from featup_cli.evaluation.source import choose_methods
    from featup_cli.pictures.panels import save_png

    with console.progress() as progress:
        features = make_source(progress)
        found = find_matches(
            features, source, target, points, choose_methods(methods, features, console.note), progress
        )
    save_png(output, found.rgb)
    for row in found.rows:
        at, match = (",".join(str(v) for v in row[key]) for key in ("at", "match"))
        console.note(f"{row['method']}: {at} is found at {match}, similarity {row['similarity']:.3f}")
    record = {"source": str(source), "target": str(target), "picture": str(output), "matches": found.rows}
    console.result(str(output), record)


def parse_points(texts: list[str]) -> list[tuple[int, int]]:
    """Points (x, y) from texts `x,y`.

    Raises:
        UsageError: none is given, or one of another form.
    """
    points = []
    for text in texts:
        parts = text.split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise UsageError(f"--at {text}: expected X,Y in pixels, for example --at 120,80")
        points.append((int(parts[0]), int(parts[1])))
    if not points:
        raise UsageError("give a point of the first picture to look for, for example --at 120,80")
    return points
