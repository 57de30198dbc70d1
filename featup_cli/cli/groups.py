"""Options that several commands share, in groups; each is declared once.

A command takes groups as its parameters (`cli.command`). Groups that serve one command stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featup_cli.backbones.config import PRECISIONS, BackboneConfig, parse_model_args
from featup_cli.backbones.registry import ALIASES
from featup_cli.cli.console import Console
from featup_cli.core.devices import check_device
from featup_cli.core.errors import InputError, OutputError, UsageError
from featup_cli.core.options import BACKBONE, INPUT, METHOD, OUTPUT, RUN, Given, group, like, option, optional_fields
from featup_cli.core.shapes import check_output_size, check_resize
from featup_cli.io.files import is_missing
from featup_cli.pictures.captions import BOTH, LOW
from featup_cli.upsamplers.implicit.config import PRESETS, ImplicitConfig, implicit_config
from featup_cli.upsamplers.method import Method
from featup_cli.upsamplers.registry import DEFAULT_METHOD, METHODS

DType = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class InputOptions:
    """Size of the network's input."""

    PANEL = INPUT

    resize: str | None = option(
        None,
        "Network input: short side in pixels, or HEIGHTxWIDTH. (default: the backbone's own short side)",
        metavar="SIZE",
        common=True,
    )

    def __post_init__(self) -> None:
        check_resize(self.resize)


@dataclass(frozen=True)
class LoadingOptions:
    """How to load a backbone."""

    PANEL = BACKBONE

    weights: Path | None = option(
        None,
        "Weights file of the backbone. It is safetensors, or a checkpoint (never executed).",
        is_read=True,
        common=True,
    )
    backbone_arg: tuple[str, ...] = option(
        (),
        "Argument of the backbone's constructor (pad_type=same), or input normalisation (mean=, std=). Repeatable.",
        metavar="KEY=VALUE",
    )
    offline: bool = option(False, "Use cached weights only (HF_HUB_OFFLINE=1).")
    random_weights: bool = option(False, "Use an untrained backbone; for tests only.")
    precision: str = option(
        "auto",
        "Number format of the backbone's computation. auto: float32 on a CPU; elsewhere float16 or bfloat16 if the "
        "features of the first picture stay within 1 % of float32.",
        choices=lambda: PRECISIONS,
    )

    def config(self, name: str, layer: int | None = None, norm: bool = True) -> BackboneConfig:
        """Settings of a backbone.

        Raises:
            UsageError, WeightsError: they are found wrong without torch, as an unknown name is.
        """
        from featup_cli.backbones.registry import check_backbone

        arguments = parse_model_args(self.backbone_arg)
        config = BackboneConfig(
            name, layer, norm, self.weights, arguments, self.offline, self.random_weights, self.precision
        )
        check_backbone(config)
        return config


@dataclass(frozen=True)
class BackboneOptions:
    """Which backbone, and which of its features."""

    PANEL = BACKBONE

    backbone: str = option(
        "tiny",
        "An alias or timm name; see `featup info`. Also hf-hub:OWNER/NAME and local-dir:FOLDER.",
        "--backbone",
        "-b",
        suggests=lambda: ALIASES,
        metavar="NAME",
        common=True,
    )
    layer: int | None = option(None, "Block or stage, counted from 0 or back from -1. (default: the last)", common=True)
    no_norm: bool = option(False, "Skip the backbone's final norm.")
    loading: LoadingOptions = group()

    def config(self) -> BackboneConfig:
        """Settings of the backbone.

        Raises:
            UsageError, WeightsError: as of `LoadingOptions.config`.
        """
        return self.loading.config(self.backbone, self.layer, not self.no_norm)


ALTERNATIVES = tuple(dict.fromkeys(name for method in METHODS.values() for name in method.alternatives))
"""Names of packaged weights that are never taken unasked."""


def named_upsamplers() -> list[str]:
    """What `--upsampler` of a single method takes, beside files."""
    from featup_cli.upsamplers.weights.releases import all_releases

    return ["auto", *ALTERNATIVES, *all_releases()]


def has_weights(method: Method) -> bool:
    """Whether a method has weights."""
    return method.trainable


@dataclass(frozen=True)
class MethodOptions:
    """A method and its weights."""

    PANEL = METHOD

    method: str = option(
        DEFAULT_METHOD,
        "\n".join(["How to upsample; see `featup info`.", *(f"{m.name}: {m.about}" for m in METHODS.values())]),
        "--method",
        "-m",
        choices=lambda: METHODS,
        common=True,
    )
    upsampler: str = option(
        "auto",
        f"Weights of a method. auto: packaged with featup; NAME: {', '.join(ALTERNATIVES)}, packaged too, or released "
        "by FeatUp (`featup info` lists them); FILE: written by `featup train` or `featup import-weights`.",
        metavar="auto|NAME|FILE",
        suggests=named_upsamplers,
        read_by=has_weights,
    )
    allow_other_backbone: bool = option(
        False, "Accept upsampler weights of another backbone if the channels match.", read_by=has_weights
    )


def is_fitted(method: Method) -> bool:
    """Whether a method reads the settings of the implicit fit."""
    return method.config is ImplicitConfig


@dataclass(frozen=True)
class ImplicitOptions:
    """Settings of the implicit fit: a preset and changes to it."""

    PANEL, READ_BY = METHOD, is_fitted

    preset: str = option(
        "default",
        "implicit: `default` balances quality and time; `paper` is table 7 as printed.",
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

    PANEL, READ_BY = METHOD, is_fitted


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
        "Names with commas between them, fast or all. fast: all feed-forward methods available for the backbone; "
        "all: the fitted ones too.",
        "--methods",
        "-m",
        suggests=lambda: ("fast", "all", *METHODS),
        listed=True,
        common=True,
    )
    implicit: ImplicitOptions = group()
    upsampler: tuple[str, ...] = option(
        (),
        "Weights of a method, as `featup upsample --upsampler` takes them. Repeatable. (default: packaged with featup)",
        metavar="METHOD=WEIGHTS",
        read_by=has_weights,
    )
    allow_other_backbone: bool = like(MethodOptions, "allow_other_backbone")


@dataclass(frozen=True)
class OutputOptions:
    """Folder, size and format of the features."""

    PANEL = OUTPUT

    output: Path = option(
        Path("features"), "Folder for the results. It is created if missing.", "-o", "--output", common=True
    )
    output_size: str | None = option(
        None,
        "Size of the result: image, HEIGHTxWIDTH, 512 or 8x. `image`: the picture's own; 512: a square; 8x: a factor "
        "of the token grid. (default: the network input's size)",
        suggests=lambda: ("image",),
        metavar="SIZE",
        common=True,
    )
    dtype: DType = option("float16", "Number format of the features.")
    storage: Literal["full", "factored"] = option(
        "full",
        "full: `features` [C, H, W]. factored: `coefficients` [K, H, W], `basis` [K, C], `mean` [C]; smaller.",
    )

    def __post_init__(self) -> None:
        check_output_size(self.output_size)
        if self.output.is_file():
            raise OutputError(f"{self.output}: can't be written: it is a file; give -o a folder")
        if self.output.suffix.lower() == ".safetensors" and not self.output.is_dir():
            raise UsageError(f"-o {self.output}: give a folder; each picture gets STEM.safetensors in it")


@dataclass(frozen=True)
class ReplaceOptions:
    """What happens to files that exist."""

    PANEL = OUTPUT

    overwrite: bool = option(False, "Replace files that exist, if featup made them.")


def check_basis(text: str) -> None:
    """Raise InputError for a file that isn't there or holds no colours."""
    from featup_cli.pictures.basis import basis_facts, stored_file  # they read headers, which the help doesn't

    file = stored_file(text)
    if file is not None:
        if is_missing(file):
            raise InputError(f"--basis {file}: no such file; give {LOW}, {BOTH}, or what --save-basis wrote")
        basis_facts(file)


@dataclass(frozen=True)
class ColourOptions:
    """What the colours of pictures are fitted to; or stored ones, for pictures that can be compared."""

    PANEL = OUTPUT

    basis: str = option(
        LOW,
        "What colours of pictures are fitted to. low: the low-resolution features, as in the paper; both: also the "
        "upsampled ones; FILE: as --save-basis stored them.",
        metavar="low|both|FILE",
        suggests=lambda: (LOW, BOTH),
        check=check_basis,
    )
    save_basis: Path | None = option(
        None, "Store colours that fit all results, for --basis of later runs.", metavar="FILE.safetensors"
    )

    def __post_init__(self) -> None:
        if self.basis == LOW and self.save_basis is None:
            return
        from featup_cli.pictures import basis as bases  # reads headers, which the help doesn't

        file = bases.stored_file(self.basis)
        if file is not None and self.save_basis is not None:
            raise UsageError("--basis and --save-basis: give one of them; stored colours are taken as they are")
        if self.save_basis is not None:
            bases.check_basis_name(self.save_basis)


@dataclass(frozen=True)
class ConsoleOptions:
    """What is printed."""

    PANEL = RUN

    quiet: bool = option(False, "Print errors only.", "--quiet", "-q", common=True)
    as_json: bool = option(False, "Print one JSON line per result on stdout; no progress bars.", "--json", common=True)

    def console(self) -> Console:
        """Where output goes."""
        return Console(self.quiet, self.as_json)


@dataclass(frozen=True)
class RunOptions:
    """Where a command computes, and in how much memory."""

    PANEL = RUN

    device: str = option(
        "auto",
        "auto, cpu, cuda, cuda:1, mps, ...",
        suggests=lambda: ("auto", "cpu", "cuda", "mps"),
        common=True,
        check=check_device,
    )
    memory: str | None = option(
        None,
        "Memory limit of the whole process, such as 2GB. Results are computed in bands that fit. "
        "(default: 60 % of free memory)",
        metavar="SIZE",
        common=True,
    )
    seed: int = option(0, "Random seed; makes the result repeatable.")
    console: ConsoleOptions = group()
