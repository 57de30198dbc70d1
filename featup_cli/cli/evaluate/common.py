"""What the commands of `featup eval` share: options, and where a run goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featup_cli.cli.console import EXIT_FAILED, Console
from featup_cli.cli.options import INPUT, METHOD, OUTPUT, RUN
from featup_cli.core.errors import InputError, UsageError
from featup_cli.upsamplers.implicit.config import ImplicitConfig

if TYPE_CHECKING:
    from featup_cli.backbones.api import Backbone
    from featup_cli.backbones.config import BackboneConfig
    from featup_cli.core.progress import Progress
    from featup_cli.evaluation.cache import Cache
    from featup_cli.evaluation.report import Table
    from featup_cli.evaluation.source import FeatureSource

DEFAULT_CACHE = Path("~/.cache/featup/eval")
SHOWN_PROBLEMS = 20

Images = Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.", metavar="IMAGE")]
Methods = Annotated[
    str,
    typer.Option(
        "--methods", "-m", rich_help_panel=METHOD,
        help="Comma-separated; `fast`: all that can be had for the backbone and take one pass; `all`: fits as well.",
    ),
]  # fmt: skip
UpsamplerWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--upsampler", metavar="METHOD=WEIGHTS",
        help="Weights of a method: a file, or a released name. Repeatable. (default: those that come with featup)",
        show_default=False, rich_help_panel=METHOD,
    ),
]  # fmt: skip
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, help="Score this many pictures, evenly spaced. (default: all)",
        show_default=False, rich_help_panel=INPUT,
    ),
]  # fmt: skip
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        "--classes", help="Labels: JSON with `classes`, `void_id` and `thin`. (default: the folder's classes.json)",
        show_default=False, rich_help_panel=INPUT,
    ),
]  # fmt: skip
ThinClasses = Annotated[
    str | None,
    typer.Option(
        "--thin", help="Labels: comma-separated names of thin classes. (default: those of the JSON file)",
        show_default=False, rich_help_panel=INPUT,
    ),
]  # fmt: skip
Fast = Annotated[
    bool,
    typer.Option(
        "--fast/--no-fast",
        help="Of methods that are linear in the features, upsample what is read off them: the same result, sooner.",
        rich_help_panel=RUN,
    ),
]
CacheFolder = Annotated[
    Path,
    typer.Option(
        "--cache", help="Folder for the results of single pictures; an interrupted run resumes from it.",
        rich_help_panel=RUN, envvar="FEATUP_CACHE",
    ),
]  # fmt: skip
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write it.", rich_help_panel=RUN)]
RunFile = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", help="Write the run as JSON, for `featup eval report`.",
        show_default=False, rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
RunJson = Annotated[
    bool, typer.Option("--json", help="The run as JSON on stdout; no table, no progress bars.", rich_help_panel=RUN)
]


def parse_upsamplers(texts: Sequence[str] | None) -> dict[str, str]:
    """Weights by method, from METHOD=WEIGHTS.

    Raises:
        UsageError: another form.
    """
    weights = {}
    for text in texts or []:
        method, equals, name = text.partition("=")
        if not (method and equals and name):
            raise UsageError(f"--upsampler {text}: expected METHOD=WEIGHTS, for example jbu=upsampler.safetensors")
        weights[method] = name
    return weights


def refuse_given(values: Mapping[str, object], reason: str) -> None:
    """Raise UsageError for the first option that was given (is not None), saying why it can't be."""
    for name, value in values.items():
        if value is not None:
            raise UsageError(f"{name} {reason}")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The pictures given, and those in the folders given; files are checked to be there before any work.

    Raises:
        InputError: no such file, or a folder without pictures.
    """
    from featup_cli.evaluation.data import list_pictures

    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        found += list_pictures(path) if path.is_dir() else [path]
    return found


def name_of(paths: Sequence[Path]) -> str:
    """The name of the data in records: that of the folder if there is one, else the number of files."""
    return paths[0].resolve().name if len(paths) == 1 else f"{len(paths)} files"


def make_source(
    backbone: BackboneConfig, implicit: ImplicitConfig, resize: str | None, allow_other_backbone: bool,
    upsamplers: Sequence[str] | None, fast: bool, device: str, seed: int, progress: Progress,
    loaded: Backbone | None = None,
) -> FeatureSource:  # fmt: skip
    """Backbone and methods as the options of a command say; `loaded` is a backbone to use instead of a new one.

    Raises:
        UsageError, WeightsError: they can't be had.
    """
    weights = parse_upsamplers(upsamplers)

    from featup_cli.engine.pipeline import Upsampling
    from featup_cli.evaluation.source import FeatureSource

    settings = Upsampling(
        backbone, implicit=implicit, resize=resize, device=device, seed=seed,
        allow_other_backbone=allow_other_backbone,
    )  # fmt: skip
    return FeatureSource(settings, fast=fast, upsamplers=weights, backbone=loaded, progress=progress)


def make_cache(folder: Path, no_cache: bool) -> Cache:
    """The cache that the options ask for."""
    from featup_cli.evaluation.cache import Cache

    return Cache(None if no_cache else folder.expanduser())


def refuse_problems(problems: Sequence[str], console: Console) -> None:
    """Report each problem on a line of its own and exit with status 1, if there are any."""
    for problem in problems[:SHOWN_PROBLEMS]:
        console.error(problem)
    if len(problems) > SHOWN_PROBLEMS:
        console.error(f"and {len(problems) - SHOWN_PROBLEMS} more")
    if problems:
        raise typer.Exit(EXIT_FAILED)


def finish(run: dict[str, Any], output: Path | None, console: Console) -> None:
    """Write the run to its file and show it."""
    from featup_cli.evaluation.report import make_tables
    from featup_cli.io.atomic import atomic_path

    if output is not None:
        with atomic_path(output) as temporary:
            temporary.write_text(json.dumps(run, indent=1) + "\n")
    if console.as_json:
        console.result("", run)
    elif not console.quiet:
        show_tables(make_tables([("", run)]), typer.echo)


def show_tables(tables: Sequence[Table], echo: Callable[[str], None]) -> None:
    """Tables for people on a terminal, Markdown elsewhere."""
    if not sys.stdout.isatty():
        echo("\n\n".join(table.markdown() for table in tables))
        return
    from rich.console import Console as RichConsole
    from rich.table import Table as RichTable

    for table in tables:
        shown = RichTable(title=table.title, title_justify="left", box=None, pad_edge=False)
        for number, title in enumerate(table.header):
            shown.add_column(title, justify="right" if number else "left")
        for row in table.rows:
            shown.add_row(*row)
        RichConsole().print(shown)
