"""`featup export`: feature files for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from featup_cli.cli.command import command
from featup_cli.cli.console import EXIT_FAILED
from featup_cli.cli.groups import ConsoleOptions, DType, ReplaceOptions
from featup_cli.core.errors import FeatUpError, one_line
from featup_cli.core.options import OUTPUT, REQUIRED, argument, like, option
from featup_cli.exporting.registry import FORMATS


@dataclass(frozen=True)
class ExportOptions:
    """Which files, for whom, and in which form."""

    PANEL = OUTPUT

    files: tuple[Path, ...] = argument(
        "Feature files; lerf and f3rm join them in this order.", metavar="FILE", is_read=True
    )
    to: str = option(
        REQUIRED, "; ".join(f"{f.name}: {f.about}" for f in FORMATS.values()) + ".", choices=lambda: FORMATS
    )
    output: Path | None = option(
        None, "Folder, or a file name if only one file is written. (default: beside each file)", "-o", "--output"
    )
    components: int | None = option(
        None, "Reduce the channels to K principal components, shared by all files.", metavar="K"
    )
    dtype: DType | None = option(None, "Number format. (default: the file's; float16 for feature-3dgs)")
    overwrite: bool = like(ReplaceOptions, "overwrite")


@command(
    examples=[
        "featup export features/photo.safetensors --to npy",
        "featup export features/*.safetensors --to feature-3dgs -o scene/rgb_feature_langseg --components 128",
        "featup export features/*.safetensors --to f3rm -o scene",
    ]
)
def export(given: ExportOptions, run: ConsoleOptions) -> None:
    """Write every file in the chosen format."""
    from featup_cli.exporting.run import export as export_files

    console = run.console()
    failed: list[Path] = []

    def report(path: Path, error: FeatUpError) -> None:
        failed.append(path)
        console.error(one_line(error))
        if run.as_json:
            console.result("", {"input": str(path), "error": one_line(error)})

    with console.progress() as progress:
        export_files(
            given.files,
            given.to,
            output=given.output,
            components=given.components,
            dtype=given.dtype,
            overwrite=given.overwrite,
            on_failed=report,
            progress=progress,
            on_written=lambda path: console.result(str(path), {"output": str(path)}),
        )
    if failed:
        if len(given.files) > 1:
            console.error(f"{len(failed)} of {len(given.files)} files failed")
        raise typer.Exit(EXIT_FAILED)
