"""`featup export`: feature files for other programs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import EXIT_FAILED, Console, report_errors
from featup_cli.cli.options import OUTPUT
from featup_cli.core.errors import FeatUpError, one_line

EXAMPLES = (
    "Examples:  featup export features/photo.safetensors --to npy  |  "
    "featup export features/*.safetensors --to feature-3dgs -o scene/rgb_feature_langseg --components 128  |  "
    "featup export features/*.safetensors --to f3rm -o scene"
)


class Format(str, Enum):
    """Who reads the files."""

    npy = "npy"
    npz = "npz"
    pt = "pt"
    hdf5 = "hdf5"
    feature_3dgs = "feature-3dgs"
    lerf = "lerf"
    f3rm = "f3rm"


@report_errors
def export(
    files: Annotated[
        list[Path], typer.Argument(help="Feature files; lerf and f3rm join them in this order.", metavar="FILE")
    ],
    to: Annotated[
        Format,
        typer.Option(
            "--to", rich_help_panel=OUTPUT,
            help="npy, npz, pt, hdf5: features C x H x W. feature-3dgs: NAME_fmap_CxHxW.pt for each picture. lerf: "
            "dino.npy and dino.info for all. f3rm: f3rm_dino_features.pt for all.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", rich_help_panel=OUTPUT, show_default=False,
            help="Folder, or the name of a file where one is written. (default: beside each file)",
        ),
    ] = None,
    components: Annotated[
        int | None,
        typer.Option(
            "--components", metavar="K", rich_help_panel=OUTPUT, show_default=False,
            help="Reduce the channels to K principal components, the same for all files.",
        ),
    ] = None,
    dtype: Annotated[
        options.DType | None,
        typer.Option(
            "--dtype", rich_help_panel=OUTPUT, show_default=False,
            help="Number format. (default: the file's; float16 for feature-3dgs)",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Replace files that exist.")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Write features in the formats that other programs read, in little memory."""
    from featup_cli.exporting.run import export_features

    console = Console(quiet, as_json)
    failed: list[Path] = []

    def report(path: Path, error: FeatUpError) -> None:
        failed.append(path)
        console.error(one_line(error))
        if as_json:
            console.result("", {"input": str(path), "error": one_line(error)})

    with console.progress() as progress:
        export_features(
            files, to.value, output=output, components=components, dtype=dtype.value if dtype else None,
            overwrite=overwrite, on_failed=report, progress=progress,
            on_written=lambda path: console.result(str(path), {"output": str(path)}),
        )  # fmt: skip
    if failed:
        if len(files) > 1:
            console.error(f"{len(failed)} of {len(files)} files failed")
        raise typer.Exit(EXIT_FAILED)
