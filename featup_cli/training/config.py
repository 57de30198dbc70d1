"""Settings of `featup train`; free of torch, so that `--help` can show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featup_cli.core.errors import UsageError
from featup_cli.core.settings import check_not_negative, check_positive, check_square, check_within


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the multi-view training of feed-forward upsamplers (FeatUp, sections 3 to 3.3; table 7, right).

    Attributes:
        target: what the upsampler is to reconstruct: tokens of jittered `views` (the paper), or the output of the
            packaged `jbu` for every pixel (distillation; settings of views, downsampler and uncertainty are then idle).
        crop_size: side in pixels of the square crops that backbone and upsampler see; rounded to a multiple that the
            backbone takes, and replaced by the size of a backbone that takes only one.
        crops: crops of each picture, at random places and scales.
        min_scale: least side of a crop, as a share of the picture's short side; sides are log-uniform.
        views: jittered views of each crop, beside the crop itself.
        max_pad: reflect padding of views in pixels at a crop of 224.
        max_zoom: largest magnification of a view.
        zoom_share: share of the views that are magnified at all.
        flips: mirror half of the views.
        steps: optimisation steps.
        batch: crops a step, over all processes.
        tokens: tokens drawn from the views of each crop.
        positions: positions drawn in each token's window; a square number.
        projection: random directions that the standardised channels are projected to, new in every step; 0 keeps all.
        pixels_per_token: side of the training output for a token: 8 makes 112x112 pixels of 14x14 tokens.
        downsampler: `simple` (one blur kernel) or `attention` (equation 2).
        learn_downsampler: fit the downsampler too; False keeps the Gaussian of `kernel_width`.
        kernel_size: side of the pooling window in pixels at stride 16; scales with the stride.
        kernel_width: (initial) standard deviation of the kernel, in half windows.
        uncertainty: weigh tokens by a learned uncertainty (equation 1); False is plain squared error.
        tv_weight: total-variation prior on the training output.
        variation: what that prior is of: feature `magnitudes` (equation 8) or the `features` themselves (absolute
            differences).
        magnitude_weight: prior on squared magnitudes (section 6.4).
        optimizer: `adamw` or `nadam`.
        learning_rate: peak for the upsampler; after a linear start a cosine brings it to zero.
        downsampler_rate: learning rate of downsampler and uncertainty, in units of `learning_rate`.
        weight_decay: decoupled, in every step.
        warmup: steps of the linear start.
        freeze: names of the upsampler's parameters that keep their initial values, with commas between, e.g.
            `range_temp,sharpen_lr`.
        clip: largest norm of the gradient of each group of parameters; 0 for any.
        average: decay of the exponential average of the weights, which is what is scored and kept; 0 for none.
        precision: `auto` computes in bfloat16 on CUDA and in float32 elsewhere.
        heldout_share: share of the pictures that are kept aside for the score (at least 4 and at most 40).
        check_interval: steps between two looks at the held-out pictures.
        check_tokens: tokens of each held-out crop that are looked at.
    """

    target: Literal["views", "jbu"] = "views"
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
    downsampler_rate: float = 3.0
    weight_decay: float = 0.0
    warmup: int = 50
    freeze: str = ""
    clip: float = 1.0
    average: float = 0.99
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    heldout_share: float = 0.05
    check_interval: int = 100
    check_tokens: int = 196

    def __post_init__(self) -> None:
        check_positive(
            self,
            "crop_size",
            "crops",
            "min_scale",
            "views",
            "steps",
            "batch",
            "tokens",
            "positions",
            "pixels_per_token",
            "kernel_size",
            "kernel_width",
            "learning_rate",
            "check_interval",
            "check_tokens",
        )
        check_not_negative(
            self,
            "max_pad",
            "projection",
            "tv_weight",
            "magnitude_weight",
            "downsampler_rate",
            "weight_decay",
            "warmup",
            "clip",
        )
        check_within(self, min_scale=(0, 1), zoom_share=(0, 1), average=(0, 0.99999), heldout_share=(0, 0.5))
        if self.max_zoom < 1:
            raise UsageError(f"max_zoom={self.max_zoom}: must be at least 1")
        check_square(self, "positions")
