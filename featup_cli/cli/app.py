"""The `featup` application: its commands, and nothing that is slow to import."""

from __future__ import annotations

from typing import Annotated

import typer

from featup_cli._version import __version__
from featup_cli.cli import bench, compare, evaluate, export, import_weights, info, render, train, upsample, visualize

app = typer.Typer(
    name="featup",
    help="Features per pixel from any vision backbone.",
    epilog="Start with: featup upsample samples/rocket.jpg",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


app.command("upsample", epilog=upsample.EXAMPLES)(upsample.upsample)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("render", epilog=render.EXAMPLES)(render.render)
app.command("visualize", epilog=visualize.EXAMPLES)(visualize.visualize)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("bench", epilog=bench.EXAMPLES)(bench.bench)
app.command("import-weights", epilog=import_weights.EXAMPLES)(import_weights.import_weights)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.add_typer(evaluate.app, name="eval")
app.command("info", epilog=info.EXAMPLES)(info.info)
