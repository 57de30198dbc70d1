"""Options that several commands share, in groups; each is declared once.

A command takes groups as its parameters (`cli.command`). Groups that serve one command stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featup_cli.backbones.config import PRECISIONS, BackboneConfig, parse_model_args
from featup_cli.cli.console import Console
from featup_cli.core.options import Given, group, like, option, optional_fields
from featup_cli.upsamplers.implicit.config import PRESETS, ImplicitConfig, implicit_config
from featup_cli.upsamplers.registry import DEFAULT_METHOD, METHODS

INPUT, BACKBONE, METHOD, OUTPUT, RUN = "Input", "Backbone", "Method", "Output", "Run"
DType = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class InputOptions:
    """Size of the network's input."""

    PANEL = INPUT

    resize: str | None = option(
        None,
        "Network input: short side in pixels, or HEIGHTxWIDTH. (default: the backbone's own short side)",
    )


@dataclass(frozen=True)
class LoadingOptions:
    """How a backbone is loaded, whichever it is."""

    PANEL = BACKBONE

    weights: Path | None = option(None, "Weights of the backbone: safetensors, or a checkpoint (never executed).")
    backbone_arg: tuple[str, ...] = option(
        (),
        "Argument of the backbone's constructor, e.g. pad_type=same; mean= and std= too. Repeatable.",
        metavar="KEY=VALUE",
    )
    offline: bool = option(False, "Use cached weights only (HF_HUB_OFFLINE=1).")
    random_weights: bool = option(False, "Untrained backbone, for tests only.")
    precision: str = option(
        "auto",
        "Number format that the backbone computes in. auto: float32 on a CPU; elsewhere float16 or bfloat16, if "
        "features of the first picture stay within 1 % of float32.",
        choices=lambda: PRECISIONS,
    )

    def config(self, name: str, layer: int | None = None, norm: bool = True) -> BackboneConfig:
        """Settings of a backbone.

        Raises:
            UsageError: a `--backbone-arg` that isn't KEY=VALUE.
        """
        arguments = parse_model_args(self.backbone_arg)
        return BackboneConfig(
            name, layer, norm, self.weights, arguments, self.offline, self.random_weights, self.precision
        )


@dataclass(frozen=True)
class BackboneOptions:
    """Which backbone, and which of its features."""

    PANEL = BACKBONE

    backbone: str = option(
        "tiny",
        "An alias (`featup info` lists them), a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER.",
        "--backbone",
        "-b",
    )
    layer: int | None = option(None, "Block or stage, counted from 0 or back from -1. (default: the last)")
    no_norm: bool = option(False, "Leave out the backbone's final norm.")
    loading: LoadingOptions = group()

    def config(self) -> BackboneConfig:
        """Settings of the backbone.

        Raises:
            UsageError: a `--backbone-arg` that isn't KEY=VALUE.
        """
        return self.loading.config(self.backbone, self.layer, not self.no_norm)


@dataclass(frozen=True)
class MethodOptions:
    """A method and its weights."""

    PANEL = METHOD

    method: str = option(
        DEFAULT_METHOD,
        "; ".join(f"{m.name}: {m.about}" for m in METHODS.values()),
        "--method",
        "-m",
        choices=lambda: METHODS,
    )
    upsampler: str = option(
        "auto",
        "Weights of a trained method. auto: the package's own; NAME: of FeatUp's release (`featup info` lists them); "
        "FILE: of `featup train` or `featup import-weights`.",
        metavar="auto|NAME|FILE",
    )
    allow_other_backbone: bool = option(False, "Use upsampler weights for another backbone if its channels fit.")


@dataclass(frozen=True)
class ImplicitOptions:
    """Settings of the implicit fit: a preset and changes to it."""

    PANEL = METHOD

    preset: str = option(
        "default",
        "implicit: default, our best trade of quality and time; paper, table 7 as printed.",
        choices=lambda: PRESETS,
    )
    settings: tuple[str, ...] = option(
        (),
        "implicit: any other setting of ImplicitConfig (docs/implicit.md). Repeatable.",
        "--set",
        metavar="KEY=VALUE",
    )

    def config(self) -> ImplicitConfig:
        """The settings.

        Raises:
            UsageError: an unknown setting, or an invalid value.
        """
        return implicit_config(self.preset, {}, self.settings)


@optional_fields(
    ImplicitConfig,
    prefix="implicit: ",
    first=("max_steps", "views", "downsampler", "uncertainty", "tv_weight", "color_features", "frequencies"),
)
class ChangedSettings(Given):
    """Settings of the implicit fit that have options of their own."""

    PANEL = METHOD


@dataclass(frozen=True)
class FitOptions:
    """Settings of the implicit fit, some by options of their own."""

    preset: str = like(ImplicitOptions, "preset")
    changed: ChangedSettings = group()
    settings: tuple[str, ...] = like(ImplicitOptions, "settings")

    def config(self) -> ImplicitConfig:
        """The settings.

        Raises:
            UsageError: an unknown setting, or an invalid value.
        """
        return implicit_config(self.preset, self.changed.given(), self.settings)


@dataclass(frozen=True)
class MethodsOptions:
    """Methods to compare, and their weights."""

    PANEL = METHOD

    methods: str = option(
        "fast",
        "Comma-separated; `fast`: all that can be had for the backbone and take one pass; `all`: fits as well.",
        "--methods",
        "-m",
    )
    implicit: ImplicitOptions = group()
    upsampler: tuple[str, ...] = option(
        (),
        "Weights of a method: a file, or a released name. Repeatable. (default: those that come with featup)",
        metavar="METHOD=WEIGHTS",
    )
    allow_other_backbone: bool = like(MethodOptions, "allow_other_backbone")


@dataclass(frozen=True)
class OutputOptions:
    """Where features go, in which size and form."""

    PANEL = OUTPUT

    output: Path = option(Path("features"), "Folder for the results; made if missing.", "-o", "--output")
    output_size: str | None = option(
        None,
        "Size of the result: `image` (the picture's own), HEIGHTxWIDTH, or a factor of the token grid such as 8x. "
        "(default: the network input's size)",
    )
    dtype: DType = option("float16", "Number format of the features.")
    storage: Literal["full", "factored"] = option(
        "full",
        "full: `features` [C, H, W]. factored: `coefficients` [K, H, W], `basis` [K, C] and `mean` [C], smaller.",
    )


@dataclass(frozen=True)
class ConsoleOptions:
    """What is printed."""

    PANEL = RUN

    quiet: bool = option(False, "Print errors only.", "--quiet", "-q")
    as_json: bool = option(False, "One JSON line a result on stdout; no progress bars.", "--json")

    def console(self) -> Console:
        """Where output goes."""
        return Console(self.quiet, self.as_json)


@dataclass(frozen=True)
class RunOptions:
    """Where a command computes, and in how much memory."""

    PANEL = RUN

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps, ...", env="FEATUP_DEVICE")
    memory: str | None = option(
        None,
        "What the whole process may use, such as 2GB; results are made in bands that fit. "
        "(default: 60 % of what is free)",
        metavar="SIZE",
    )
    seed: int = option(0, "Makes the result repeatable.")
    console: ConsoleOptions = group()
