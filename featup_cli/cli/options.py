"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featup_cli.backbones.config import PRECISIONS, parse_model_args
from featup_cli.upsamplers.implicit.config import PRESETS

if TYPE_CHECKING:
    from featup_cli.backbones.config import BackboneConfig

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


Precision = Enum("Precision", {name: name for name in PRECISIONS}, type=str)  # type: ignore[misc]
Preset = Enum("Preset", {name: name for name in PRESETS}, type=str)  # type: ignore[misc]

Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        help="Network input: short side in pixels, or HEIGHTxWIDTH. (default: the backbone's own short side)",
        show_default=False, rich_help_panel=INPUT,
    ),
]  # fmt: skip
MaxPixels = Annotated[
    int, typer.Option("--max-pixels", min=1, help="Refuse pictures with more pixels.", rich_help_panel=INPUT)
]
BackboneName = Annotated[
    str,
    typer.Option(
        "--backbone", "-b",
        help="An alias (`featup info` lists them), a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER.",
        rich_help_panel=BACKBONE,
    ),
]  # fmt: skip
Layer = Annotated[
    int | None,
    typer.Option(
        "--layer", help="Block or stage, counted from 0 or back from -1. (default: the last)",
        show_default=False, rich_help_panel=BACKBONE,
    ),
]  # fmt: skip
NoNorm = Annotated[
    bool, typer.Option("--no-norm", help="Leave out the backbone's final norm.", rich_help_panel=BACKBONE)
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="Weights of the backbone: safetensors, or a checkpoint (never executed).",
        show_default=False, rich_help_panel=BACKBONE,
    ),
]  # fmt: skip
BackboneArg = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone-arg", metavar="KEY=VALUE",
        help="Argument of the backbone's constructor, e.g. pad_type=same; mean= and std= too. Repeatable.",
        show_default=False, rich_help_panel=BACKBONE,
    ),
]  # fmt: skip
Offline = Annotated[
    bool, typer.Option("--offline", help="Use cached weights only (HF_HUB_OFFLINE=1).", rich_help_panel=BACKBONE)
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Untrained backbone, for tests only.", rich_help_panel=BACKBONE)
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Number format that the backbone computes in. auto: float32 on a CPU; elsewhere float16 or bfloat16, if "
        "features of the first picture stay within 1 % of float32.",
        rich_help_panel=BACKBONE,
    ),
]  # fmt: skip
UpsamplerWeights = Annotated[
    str,
    typer.Option(
        "--upsampler", metavar="auto|NAME|FILE",
        help="Weights of a trained method. auto: the package's own; NAME: of FeatUp's release (`featup info` lists "
        "them); FILE: of `featup train` or `featup import-weights`.",
        rich_help_panel=METHOD,
    ),
]  # fmt: skip
AllowOtherBackbone = Annotated[
    bool,
    typer.Option(
        "--allow-other-backbone", help="Use upsampler weights for another backbone if its channels fit.",
        rich_help_panel=METHOD,
    ),
]  # fmt: skip
PresetOption = Annotated[
    Preset,
    typer.Option(
        "--preset", help="implicit: default, our best trade of quality and time; paper, table 7 as printed.",
        rich_help_panel=METHOD,
    ),
]  # fmt: skip
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE",
        help="implicit: any other setting of ImplicitConfig (docs/implicit.md). Repeatable.",
        show_default=False, rich_help_panel=METHOD,
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", help="Makes the result repeatable.", rich_help_panel=RUN)]

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
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE",
        help="What the whole process may use, such as 2GB; results are made in bands that fit. "
        "(default: 60 % of what is free)",
        show_default=False, rich_help_panel=RUN,
    ),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=RUN)]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON line a result on stdout; no progress bars.", rich_help_panel=RUN)
]


def backbone_config(
    name: str, layer: int | None, no_norm: bool, weights: Path | None, arguments: list[str] | None, offline: bool,
    random_weights: bool, precision: Precision,
) -> BackboneConfig:  # fmt: skip
    """Settings of a backbone from its options.

    Raises:
        UsageError: an argument that isn't KEY=VALUE.
    """
    model_args = parse_model_args(arguments or [])

    from featup_cli.backbones.config import BackboneConfig

    return BackboneConfig(name, layer, not no_norm, weights, model_args, offline, random_weights, precision.value)
