"""`featup render`: features of any size from a fitted model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.cli.command import command
from featup_cli.cli.groups import ColourOptions, ConsoleOptions, OutputOptions, ReplaceOptions, RunOptions
from featup_cli.core.options import INPUT, OUTPUT, RUN, argument, group, like, option
from featup_cli.core.shapes import describe_size
from featup_cli.core.text import counted


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and which picture guides it."""

    PANEL = INPUT

    model: Path = argument("A model written by `featup upsample --save-model`.", is_read=True)
    image: Path | None = option(
        None, "The original picture, for finer edges. (default: the reduced copy in the model)", is_read=True
    )


@dataclass(frozen=True)
class FileOptions:
    """Which files are written."""

    PANEL = OUTPUT

    features: OutputOptions = group()
    picture: bool = option(True, "Write STEM.HEIGHTxWIDTH.png as well.")
    basis: str = like(ColourOptions, "basis")
    overwrite: bool = like(ReplaceOptions, "overwrite")


@dataclass(frozen=True)
class PlaceOptions:
    """Where the command computes, and what it prints."""

    PANEL = RUN

    device: str = like(RunOptions, "device")
    memory: str | None = like(RunOptions, "memory")
    console: ConsoleOptions = group()


@command(examples=["featup render features/photo.model.safetensors --output-size 2048x1536"])
def render(given: ModelOptions, files: FileOptions, run: PlaceOptions) -> None:
    """Render a model to files."""
    from featup_cli.core.units import parse_bytes
    from featup_cli.engine.render import open_rendering
    from featup_cli.engine.settings import Output

    console, output = run.console.console(), files.features
    memory = None if run.memory is None else parse_bytes(run.memory)
    rendering = open_rendering(
        given.model, output_size=output.output_size, image=given.image, device=run.device, memory=memory
    )
    with console.progress() as progress:
        written = rendering.write(
            output.output,
            Output(output.dtype, output.storage, picture=files.picture, basis=files.basis),
            progress,
            files.overwrite,
        )
    paths = {name: str(path) for name, path in written.paths.items()}
    channels, height, width = written.shape
    console.note(
        f"{given.model}: {counted(channels, 'channel')}, {describe_size((height, width))}, {written.seconds:.1f} s"
    )
    record = {"model": str(given.model), **paths, "shape": list(written.shape), "seconds": round(written.seconds, 3)}
    console.result("\n".join(paths.values()), record)
