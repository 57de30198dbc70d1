"""`featup visualize`: pictures of feature files."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.options import INPUT, OUTPUT

EXAMPLES = (
    "Examples:  featup visualize features/photo.safetensors  |  "
    "featup visualize features/*.safetensors -o pictures --components 4-6  |  "
    "featup visualize features/photo.safetensors --layout overlay"
)


class Layout(str, Enum):
    """How a picture is composed."""

    side_by_side = "side-by-side"
    overlay = "overlay"
    plain = "plain"


@report_errors
def visualize(
    files: Annotated[list[Path], typer.Argument(help="Feature files; several share one colour basis.", metavar="FILE")],
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            rich_help_panel=INPUT,
            show_default=False,
            help="The picture to show. (default: the one that the file says it was made of)",
        ),
    ] = None,
    components: Annotated[
        str, typer.Option("--components", rich_help_panel=OUTPUT, help="Principal components as RGB: 4-6 or 1,3,5.")
    ] = "1-3",
    layout: Annotated[
        Layout,
        typer.Option(
            "--layout", rich_help_panel=OUTPUT, help="side-by-side panels, overlay on the picture, or the plain map."
        ),
    ] = Layout.side_by_side,
    show: Annotated[
        str | None,
        typer.Option(
            "--show",
            rich_help_panel=OUTPUT,
            show_default=False,
            help="Panels: features, uncertainty, downsampler. (default: features, and uncertainty if there)",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            rich_help_panel=OUTPUT,
            show_default=False,
            help="Folder, or a .png for one file. (default: STEM.png beside each file)",
        ),
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Show features as PCA colours, with one basis for low and high resolution and for all files given."""
    from featup_cli.pictures import visualize as library

    console = Console(quiet, as_json)
    library.visualize(
        files, components=library.parse_components(components), layout=layout.value, image=image, output=output,
        show=library.parse_show(show) if show else None,
        on_written=lambda path: console.result(str(path), {"picture": str(path)}),
    )  # fmt: skip
