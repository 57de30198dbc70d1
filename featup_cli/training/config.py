"""Settings of the training; free of torch, so that `--help` is fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from featup_cli.backbones.config import BackboneConfig
from featup_cli.core.checks import checked
from featup_cli.core.errors import UsageError
from featup_cli.core.settings import check_not_negative, check_positive, check_square, check_within
from featup_cli.io.replace import refuse_replacing
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.method import JBU
from featup_cli.upsamplers.registry import method_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

VIEWS = "views"
TARGETS = (VIEWS, JBU.name)
"""Training targets: views, or the output of a teacher with packaged weights that is linear in the features."""
_POSITIVE = (
    *("crop_size", "crops", "min_scale", "views", "steps", "batch", "tokens", "positions", "pixels_per_token"),
    *("kernel_size", "kernel_width", "learning_rate", "check_interval", "check_tokens"),
)
_NOT_NEGATIVE = ("max_pad", "projection", "tv_weight", "magnitude_weight", "downsampler_rate", "weight_decay")


@checked
@dataclass(frozen=True)
class TrainConfig:
    """Settings of the multi-view training of feed-forward upsamplers (FeatUp, sections 3 to 3.3; table 7, right).

    Attributes:
        target: training target: tokens of jittered `views` (the paper), or every pixel of the packaged `jbu`'s output
            (distillation, which ignores the settings of views, downsampler and uncertainty).
        crop_size: side in pixels of the square crops that backbone and upsampler see; rounded to a multiple that the
            backbone takes; a backbone of fixed size uses its own.
        crops: crops of each picture, at random places and scales.
        min_scale: least side of a crop, as a share of the picture's short side; sides are log-uniform.
        views: jittered views of each crop, in addition to the crop itself.
        max_pad: reflect padding of views in pixels at a crop of 224.
        max_zoom: largest magnification of a view.
        zoom_share: share of the views that are magnified.
        flips: mirror half of the views.
        steps: optimisation steps.
        batch: crops per step, over all processes.
        jitters: views of each crop that a step draws, to use all their tokens; 0: a step uses `tokens` of them.
        tokens: tokens drawn from all views of each crop and from the crop itself.
        positions: positions drawn in each token's window; a square number.
        projection: random directions to which standardised channels are projected, new in every step; 0: no projection.
        pixels_per_token: side of the training output per token: with 8, 14x14 tokens give 112x112 pixels.
        downsampler: `simple` (one blur kernel) or `attention` (equation 2).
        learn_downsampler: fit the downsampler too; False keeps the Gaussian of `kernel_width`.
        kernel_size: side of the pooling window in pixels at stride 16; scales with the stride.
        kernel_width: (initial) standard deviation of the kernel, in half windows.
        uncertainty: weigh tokens by a learned uncertainty (equation 1); False is plain squared error.
        tv_weight: total-variation prior on the training output.
        variation: quantity of that prior: feature `magnitudes` (equation 8) or the `features` themselves (absolute
            differences).
        magnitude_weight: prior on squared magnitudes (section 6.4).
        optimizer: `adamw` or `nadam`.
        learning_rate: peak for the upsampler, after a linear warm-up.
        schedule: `cosine` decay to zero, or `constant`.
        downsampler_rate: learning rate of downsampler and uncertainty, in units of `learning_rate`.
        weight_decay: decoupled, in every step.
        warmup: steps of the linear warm-up.
        freeze: comma-separated names of the upsampler's parameters that keep their initial values, e.g.
            `range_temp,sharpen_lr`.
        clip: largest gradient norm of each group of parameters; 0: no clipping.
        average: decay of the exponential average of the weights, which is scored and saved; 0: no average.
        select: weights that are saved: of the `best` evaluation of the held-out pictures, or of the `last` step.
        precision: `auto` computes in bfloat16 on CUDA and in float32 elsewhere.
        heldout_share: share of the pictures held out for the score (at least 4 and at most 40).
        check_interval: steps between evaluations of the held-out pictures.
        check_tokens: tokens evaluated in each held-out crop.
    """

    target: str = VIEWS
    crop_size: int = 224
    crops: int = 1
    min_scale: float = 0.6
    views: int = 8
    max_pad: float = 30.0
    max_zoom: float = 2.0
    zoom_share: float = 0.5
    flips: bool = True
    steps: int = 2000
    batch: int = 4
    jitters: int = 0
    tokens: int = 196
    positions: int = 16
    projection: int = 32
    pixels_per_token: int = 8
    downsampler: Literal["simple", "attention"] = "simple"
    learn_downsampler: bool = True
    kernel_size: float = 29.0
    kernel_width: float = 0.5
    uncertainty: bool = True
    tv_weight: float = 0.0
    variation: Literal["magnitudes", "features"] = "magnitudes"
    magnitude_weight: float = 0.0
    optimizer: Literal["adamw", "nadam"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    downsampler_rate: float = 3.0
    weight_decay: float = 0.0
    warmup: int = 50
    freeze: str = ""
    clip: float = 1.0
    average: float = 0.99
    select: Literal["best", "last"] = "best"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    heldout_share: float = 0.05
    check_interval: int = 100
    check_tokens: int = 196

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UsageError(f"target={self.target}: choose from {', '.join(TARGETS)}")
        check_positive(self, *_POSITIVE)
        check_not_negative(self, *_NOT_NEGATIVE, "warmup", "clip")
        check_within(self, min_scale=(0, 1), zoom_share=(0, 1), average=(0, 0.99999), heldout_share=(0, 0.5))
        check_within(self, jitters=(0, self.views))
        if self.max_zoom < 1:
            raise UsageError(f"max_zoom={self.max_zoom}: must be at least 1")
        check_square(self, "positions")


PRESETS: dict[str, TrainConfig] = {
    "default": TrainConfig(),
    # Table 7, right column. Without a schedule, an average or a choice of the best, as it names none; the whole output
    # and, at stride 16, one position for each pixel of a window, which is what pooling the warped map reads.
    "paper": TrainConfig(
        min_scale=1.0, views=2, max_pad=30.0, max_zoom=2.0, steps=2000, batch=4, jitters=2, positions=256,
        projection=30, pixels_per_token=16, downsampler="attention", kernel_size=16.0, optimizer="nadam",
        learning_rate=1e-3, schedule="constant", downsampler_rate=1.0, warmup=0, clip=0.0, average=0.0, select="last",
        precision="float32",
    ),
}  # fmt: skip


@checked
@dataclass(frozen=True)
class Training:
    """Inputs, outputs and settings of a training; fields are those of `featup train`.

    Attributes:
        images: folders, searched with their subfolders.
        output: the weights file.
        upsampler: settings of a method with weights; their class selects the method.
        backbone: backbone whose features are upsampled.
        config: settings of the training.
        run_folder: configuration, curves and checkpoint; None for OUTPUT with suffix `.run`.
        cache: folder for features of the backbone; None for `cache` in the run folder.
        resume: resume from the checkpoint in the run folder, if there is one.
        overwrite: train anew, whatever the output and the run folder hold.
        device: auto, cpu, cuda, ...
        seed: the same seed on the same device gives the same upsampler.
        save_every: seconds between checkpoints.
        init: initial weights of the same method; parameters that don't fit start at random.
    """

    images: Sequence[Path]
    output: Path
    upsampler: DataclassInstance = field(default_factory=JBUConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    config: TrainConfig = field(default_factory=TrainConfig)
    run_folder: Path | None = None
    cache: Path | None = None
    resume: bool = False
    overwrite: bool = False
    device: str = "auto"
    seed: int = 0
    save_every: float = 60.0
    init: Path | None = None

    def __post_init__(self) -> None:
        if not self.output.name:
            raise UsageError(f"output {self.output}: give the name of a file")

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_folder or self.output.with_suffix(".run")

    @property
    def checkpoint(self) -> Path:
        """What `resume` reads."""
        return self.folder / "checkpoint.pt"

    def check_outputs(self) -> None:
        """Raise UsageError if results of another training would be lost."""
        if self.checkpoint.is_file() and not (self.resume or self.overwrite):
            raise UsageError(
                f"{self.folder}: holds a training; give --resume to go on with it, --overwrite to train anew, or "
                "another --output"
            )
        refuse_replacing(self.output, self.resume or self.overwrite, inputs=[self.init])

    @property
    def method(self) -> str:
        """Name of the upsampler's method."""
        return method_of(self.upsampler).name

    @property
    def serves_any(self) -> bool:
        """Whether the weights will work with every backbone."""
        return method_of(self.upsampler).any_backbone(self.upsampler)
