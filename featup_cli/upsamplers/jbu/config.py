"""Settings of the joint bilateral upsampler; free of torch, so that `--help` can show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featup_cli.core.errors import UsageError
from featup_cli.core.settings import check_positive


@dataclass(frozen=True)
class JBUConfig:
    """Settings of `JBUUpsampler` (FeatUp, section 3.2 and tables 3 and 4).

    Attributes:
        radius: of the window in pixels of a stage's output; 3 is a 7x7 window.
        key_size: hidden and output width of the MLP that makes keys of the guidance.
        stages: number of stages; None takes as many as doublings fit, which needs `shared`.
        shared: all stages share their parameters.
        mlp: make keys by the MLP; False compares the guidance itself (table 4, row "- MLP").
        range_kernel: `inner_product` of keys under a softmax (equation 6), or a Gaussian of their `euclidean` or
            `cosine` distance (table 4, rows "- Softmax").
        unit_keys: scale keys to unit length, so that nothing is more similar to a pixel than itself, and start the MLP
            so that keys compare colours: before training the kernel is the classical one (Kopf et al., 2007). False is
            the paper's kernel, randomly initialised.
        temperature: initial factor of the inner products, 1 / sigma_range^2 (equation 6); learned. With `unit_keys`
            sigma_range is in units of intensity.
        temperature_growth: factor of the temperature from one stage to the next coarser; colours that are averages
            over more pixels differ less. 1 for the paper's stages.
        spatial_width: initial sigma_spatial (equation 5) in half windows; learned.
        resize: how a stage brings its input to its output grid before filtering.
        dropout: probability of dropping a hidden channel of the MLP in training.
        sharpen_lr: add this times their fine detail to the low-resolution features; the initial value of a learned
            scalar, 0 for none. Weights that are positive only smooth; this undoes part of the backbone's pooling.
        sharpen_lr_wide: likewise for detail of the next coarser scale.
        contrast: take away this share of the purely spatial weights from every stage's weights, which still sum to
            one; the initial value of a learned scalar, 0 for none.
    """

    radius: int = 3
    key_size: int = 32
    stages: int | None = None
    shared: bool = True
    mlp: bool = True
    range_kernel: Literal["inner_product", "euclidean", "cosine"] = "inner_product"
    unit_keys: bool = True
    temperature: float = 180.0
    temperature_growth: float = 2.1
    spatial_width: float = 1.0
    resize: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    dropout: float = 0.0
    sharpen_lr: float = 1.5
    sharpen_lr_wide: float = 1.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "radius", "key_size", "temperature", "temperature_growth", "spatial_width")
        if self.stages is not None and self.stages < 1:
            raise UsageError(f"stages={self.stages}: must be at least 1")
        if self.stages is None and not self.shared:
            raise UsageError("shared=False: separate parameters need a number of stages")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout={self.dropout}: must be at least 0 and below 1")


PRESETS: dict[str, JBUConfig] = {
    "default": JBUConfig(),
    # Section 3.2 as printed: a 3x3 window, bilinear features, keys of 30 numbers. From 14x14 tokens to 224 pixels are
    # four doublings, each with parameters of its own.
    "paper": JBUConfig(
        radius=1, key_size=30, stages=4, shared=False, unit_keys=False, temperature=1.0, temperature_growth=1.0,
        resize="bilinear", sharpen_lr=0.0, sharpen_lr_wide=0.0,
    ),
}  # fmt: skip
