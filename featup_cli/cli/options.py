"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

INPUT, BACKBONE, METHOD, OUTPUT, RUN = "Input", "Backbone", "Method", "Output", "Run"


class DType(str, Enum):
    """Number format of stored features."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


class Storage(str, Enum):
    """How features are laid out in the file."""

    full = "full"
    factored = "factored"


OutputDir = Annotated[
    Path, typer.Option("-o", "--output", help="Folder for the results; made if missing.", rich_help_panel=OUTPUT)
]
OutputSize = Annotated[
    str | None,
    typer.Option(
        "--output-size",
        help="Size of the result: `image` (the picture's own), HEIGHTxWIDTH, or a factor of the token grid such as 8x. "
        "(default: the network input's size)",
        show_default=False, rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
DTypeOption = Annotated[DType, typer.Option("--dtype", help="Number format of the features.", rich_help_panel=OUTPUT)]
StorageOption = Annotated[
    Storage,
    typer.Option(
        "--storage",
        help="full: `features` [C, H, W]. factored: `coefficients` [K, H, W], `basis` [K, C] and `mean` [C], smaller.",
        rich_help_panel=OUTPUT,
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, ...", rich_help_panel=RUN, envvar="FEATUP_DEVICE")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=RUN)]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON line a result on stdout; no progress bars.", rich_help_panel=RUN)
]
