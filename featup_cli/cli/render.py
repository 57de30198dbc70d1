"""`featup render`: features of any size from a fitted model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.options import INPUT, OUTPUT

EXAMPLES = "Example:  featup render features/photo.model.safetensors --output-size 2048x1536"


@report_errors
def render(
    model: Annotated[Path, typer.Argument(help="A model written by `featup upsample --save-model`.")],
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            rich_help_panel=INPUT,
            show_default=False,
            help="The original picture, for finer edges than the reduced one in the model. (default: that one)",
        ),
    ] = None,
    output: options.OutputDir = Path("features"),
    output_size: options.OutputSize = None,
    dtype: options.DTypeOption = options.DType.float16,
    storage: options.StorageOption = options.Storage.full,
    picture: Annotated[
        bool, typer.Option("--picture/--no-picture", rich_help_panel=OUTPUT, help="Write STEM.png as well.")
    ] = True,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Render features of any size from a fitted model, without backbone or fit."""
    from featup_cli import pipeline

    console = Console(quiet, as_json)
    with console.progress() as progress:
        result = pipeline.render(model, image=image, output_size=output_size, device=device, progress=progress)
    target = output / f"{model.name.removesuffix('.safetensors').removesuffix('.model')}.safetensors"
    written = {"output": str(result.save(target, dtype=dtype.value, storage=storage.value))}
    if picture:
        written["picture"] = str(result.save_picture(target.with_suffix(".png")))
    shape = list(result.features.shape)
    console.note(f"{model}: {shape[0]} channels, {shape[1]}x{shape[2]}, {result.seconds:.1f} s")
    console.result(
        "\n".join(written.values()), {"model": str(model), **written, "shape": shape, "seconds": result.seconds}
    )
