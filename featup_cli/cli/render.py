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
    memory: options.Memory = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Render features of any size from a fitted model, without backbone or fit."""
    from featup_cli.core.memory import parse_bytes
    from featup_cli.engine.render import render_files
    from featup_cli.engine.write import Output

    console = Console(quiet, as_json)
    target = output / f"{model.name.removesuffix('.safetensors').removesuffix('.model')}.safetensors"
    with console.progress() as progress:
        written = render_files(
            model, target, Output(dtype.value, storage.value, picture=picture), image=image, output_size=output_size,
            device=device, memory=None if memory is None else parse_bytes(memory), progress=progress,
        )  # fmt: skip
    paths = {name: str(path) for name, path in written.paths.items()}
    channels, height, width = written.shape
    console.note(f"{model}: {channels} channels, {height}x{width}, {written.seconds:.1f} s")
    record = {"model": str(model), **paths, "shape": list(written.shape), "seconds": round(written.seconds, 3)}
    console.result("\n".join(paths.values()), record)
