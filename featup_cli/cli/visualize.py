"""`featup visualize`: pictures of feature files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featup_cli.cli.command import command
from featup_cli.cli.groups import ColourOptions, ConsoleOptions, ReplaceOptions
from featup_cli.cli.unread import refuse_typed
from featup_cli.core.options import INPUT, OUTPUT, argument, group, like, option


@dataclass(frozen=True)
class PictureOptions:
    """Which files, and how they are shown."""

    PANEL = OUTPUT

    files: tuple[Path, ...] = argument("Feature files; several share one colour basis.", metavar="FILE", is_read=True)
    image: Path | None = option(
        None, "The picture to show. (default: the one recorded in the file)", panel=INPUT, is_read=True
    )
    components: str = option("1-3", "Principal components as RGB: 4-6 or 1,3,5.")
    layout: Literal["side-by-side", "overlay", "plain"] = option(
        "side-by-side", "side-by-side panels with titles, or bare: overlay on the picture, or the plain map."
    )
    colours: ColourOptions = group()
    show: str | None = option(
        None, "Panels: features, uncertainty, downsampler. (default: features, and uncertainty if present)"
    )
    output: Path | None = option(
        None, "Folder, or a .png for one file. (default: STEM.pca.png beside each file)", "-o", "--output"
    )
    overwrite: bool = like(ReplaceOptions, "overwrite")


@command(
    examples=[
        "featup visualize features/photo.safetensors",
        "featup visualize features/*.safetensors -o pictures --components 4-6",
        "featup visualize features/photo.safetensors --layout overlay",
        "featup visualize monday/*.safetensors --save-basis colours.safetensors",
        "featup visualize tuesday/*.safetensors --basis colours.safetensors",
    ]
)
def visualize(given: PictureOptions, run: ConsoleOptions) -> None:
    """Write a picture of each file."""
    if given.layout == "plain":
        refuse_typed(PictureOptions, ["image"], "--layout plain doesn't show the picture; omit it")
    from featup_cli.pictures import visualize as library

    console = run.console()
    library.visualize(
        given.files,
        components=library.parse_components(given.components),
        layout=given.layout,
        image=given.image,
        output=given.output,
        show=library.parse_show(given.show) if given.show else None,
        overwrite=given.overwrite,
        on_written=lambda path: console.result(str(path), {"picture": str(path)}),
        basis=given.colours.basis,
        save_basis=given.colours.save_basis,
    )
