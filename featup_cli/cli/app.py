"""The `featup` application: its commands, and nothing that is slow to import."""

from __future__ import annotations

from typing import Annotated

import typer

from featup_cli._version import __version__
from featup_cli.cli.lazy import Entry, LazyGroup


class Commands(LazyGroup):
    """Every command, by its module and its line in the help."""

    examples = ("featup upsample samples/rocket.jpg",)
    table = {  # noqa: RUF012 (typer makes instances, not subclasses)
        "upsample": Entry(
            "featup_cli.cli.upsample:upsample",
            "Upsample the features of pictures. Writes STEM.safetensors and STEM.png for each; "
            "an interrupted run resumes.",
        ),
        "train": Entry(
            "featup_cli.cli.train:train",
            "Train an upsampler on your own pictures by reconstructing jittered views (FeatUp, section 3).",
        ),
        "render": Entry(
            "featup_cli.cli.render:render", "Render features of any size from a fitted model; needs no backbone."
        ),
        "visualize": Entry(
            "featup_cli.cli.visualize:visualize",
            "Show features as PCA colours. Low and high resolution of all files share one basis.",
        ),
        "export": Entry(
            "featup_cli.cli.export:export", "Write features in formats that other programs read, using little memory."
        ),
        "bench": Entry(
            "featup_cli.cli.bench:bench",
            "Check kernels against the reference, then time them beside baselines and the memory floor.",
        ),
        "import-weights": Entry(
            "featup_cli.cli.import_weights:import_weights",
            "Convert a checkpoint of FeatUp's JBU or of ReSFU to a file for --upsampler.",
        ),
        "compare": Entry(
            "featup_cli.cli.compare:compare",
            "Show a picture with its features by each method in one PCA basis, and their time and memory.",
        ),
        "info": Entry(
            "featup_cli.cli.info:info",
            "Describe files and how they were made. Without a file, list backbones, methods, devices and versions.",
        ),
        "eval": Entry(
            "featup_cli.cli.evaluate:evaluations", "Evaluate the features of each method, with confidence intervals."
        ),
    }


app = typer.Typer(
    name="featup",
    cls=Commands,
    help="Features per pixel from any vision backbone.",
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def featup(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Features per pixel from any vision backbone.

    Exit status: 0 done, 1 some input failed, 2 wrong usage, 130 interrupted.
    """
