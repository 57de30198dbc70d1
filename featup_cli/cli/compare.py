"""`featup compare`: every method's features of one picture, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.cli.command import command
from featup_cli.cli.evaluate.options import keywords
from featup_cli.cli.groups import (
    BackboneOptions,
    ConsoleOptions,
    InputOptions,
    MethodsOptions,
    OutputOptions,
    ReplaceOptions,
    RunOptions,
)
from featup_cli.core.options import OUTPUT, argument, group, like
from featup_cli.core.shapes import check_output_size
from featup_cli.evaluation.registry import COMPARED
from featup_cli.io.replace import refuse_replacing


@dataclass(frozen=True)
class PictureOptions:
    """The picture, and the size at which the network sees it."""

    image: Path = argument("A picture.", metavar="IMAGE", is_read=True)
    input: InputOptions = group()


@dataclass(frozen=True)
class ComparedMethods(MethodsOptions):
    """Methods to show, and their weights."""

    methods: str = like(MethodsOptions, "methods", default=COMPARED)


@dataclass(frozen=True)
class FigureOptions:
    """The picture to write, and how it is made."""

    output: Path = like(OutputOptions, "output", default=Path("compare.png"), help="The PNG to write.")
    output_size: str | None = like(OutputOptions, "output_size")
    overwrite: bool = like(ReplaceOptions, "overwrite", panel=OUTPUT)
    device: str = like(RunOptions, "device")
    seed: int = like(RunOptions, "seed")
    console: ConsoleOptions = group()

    def __post_init__(self) -> None:
        check_output_size(self.output_size)


@command(examples=["featup compare photo.jpg --methods bilinear,implicit -o compare.png"])
def compare(
    picture: PictureOptions, backbone: BackboneOptions, methods: ComparedMethods, figure: FigureOptions
) -> None:
    """Show a picture with its features by each method in one PCA basis, and their time and memory."""
    console = figure.console.console()
    asked = keywords(picture.input, backbone, methods)
    refuse_replacing(figure.output, figure.overwrite, inputs=[picture.image])
    console.loading(backbone.backbone)

    from featup_cli.evaluation.comparison import compare
    from featup_cli.pictures.panels import save_png

    with console.progress() as progress:
        result = compare(
            picture.image, output_size=figure.output_size, device=figure.device, seed=figure.seed, progress=progress,
            note=console.note, **asked,
        )  # fmt: skip
    save_png(figure.output, result.rgb)
    for row in result.rows:
        memory = "" if row["peak_mib"] is None else f", {row['peak_mib']:.0f} MiB"
        console.note(f"{row['method']}: {row['seconds']:.2f} s{memory}")
    record = {"input": str(picture.image), "picture": str(figure.output), "methods": result.rows}
    console.result(str(figure.output), record)
