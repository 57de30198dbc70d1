"""Settings of the baselines; free of torch, so that `--help` can show them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from featup_cli.core.errors import UsageError
from featup_cli.core.settings import check_positive


@dataclass(frozen=True)
class BaselineConfig:
    """What holds for the settings of every baseline: numbers are positive, sides of windows odd, kernels at least 3."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool | str):
                check_positive(self, field.name)
            if field.name.endswith("_size") and value % 2 == 0:
                raise UsageError(f"{field.name}={value}: must be odd")
            if field.name == "kernel_size" and value < 3:
                raise UsageError(f"{field.name}={value}: must be at least 3")


@dataclass(frozen=True)
class CARAFEConfig(BaselineConfig):
    """Settings of `CARAFE`; the defaults are the paper's.

    Attributes:
        kernel_size: side of the window that is reassembled, in pixels of a doubling's input.
        encoder_size: side of the convolution that predicts kernels.
        compressed: channels that it sees.
    """

    kernel_size: int = 5
    encoder_size: int = 3
    compressed: int = 64


@dataclass(frozen=True)
class SAPAConfig(BaselineConfig):
    """Settings of `SAPA`.

    Attributes:
        kernel_size: side of the window that is mixed, in pixels of a doubling's input.
        embedding: width of query and key.
        guidance_channels: of the map that a stem makes of the picture.
        gate: add the features' own query to that of the guidance, in shares that the features decide.
    """

    kernel_size: int = 5
    embedding: int = 32
    guidance_channels: int = 32
    gate: bool = True


@dataclass(frozen=True)
class FADEConfig(BaselineConfig):
    """Settings of `FADE`; the widths are the paper's.

    Attributes:
        kernel_size: side of the window that is reassembled, in pixels of a doubling's input.
        encoder_size: side of the semi-shift convolution.
        compressed: channels that it sees, of the picture and of the features.
        gate: mix the result with bilinear interpolation, in shares that the features decide.
    """

    kernel_size: int = 5
    encoder_size: int = 3
    compressed: int = 64
    gate: bool = True


@dataclass(frozen=True)
class DySampleConfig(BaselineConfig):
    """Settings of `DySample`.

    Attributes:
        reach: factor of the predicted offsets, in pixels of a doubling's input.
        dynamic_scope: multiply it by a predicted share of 0 to 1 (the paper's `+`); False uses one half everywhere.
        style: `lp` predicts the offsets of four new pixels and shuffles them; `pl` (the paper's `S`) shuffles the
            features first, without a norm, and predicts from a quarter of the channels.
        groups: of channels with offsets of their own; above 1 with `pl` only.
    """

    reach: float = 0.5
    dynamic_scope: bool = True
    style: Literal["lp", "pl"] = "lp"
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups > 1 and self.style != "pl":
            raise UsageError(f"groups={self.groups}: give style=pl as well; with style=lp all channels share offsets")


@dataclass(frozen=True)
class ConvolutionConfig(BaselineConfig):
    """Settings of a baseline that convolves.

    Attributes:
        hidden: channels that are fully mixed; of all channels only pixels are mixed.
        full: one plain layer of C x C channels instead, as printed: features are not scaled by their spread.
        ratio: factor by which that layer enlarges the grid; it is applied until the grid reaches the output.
    """

    hidden: int = 64
    full: bool = False
    ratio: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio != 2 and not self.full:
            raise UsageError(f"ratio={self.ratio}: give full=true as well; without it the grid is doubled")
        if self.ratio < 2:
            raise UsageError(f"ratio={self.ratio}: must be at least 2")


@dataclass(frozen=True)
class PixelShuffleConfig(ConvolutionConfig):
    """Settings of `PixelShuffle`."""


@dataclass(frozen=True)
class DeconvConfig(ConvolutionConfig):
    """Settings of `Deconv`."""


@dataclass(frozen=True)
class ResizeConvConfig(ConvolutionConfig):
    """Settings of `ResizeConv`."""


@dataclass(frozen=True)
class LIIFConfig(BaselineConfig):
    """Settings of `LIIF`; the defaults are the paper's, except `residual`.

    Attributes:
        hidden: width of the network.
        layers: linear layers of it.
        unfold: it sees the 3x3 tokens around each one (feature unfolding).
        cell: it sees the size of an output pixel (cell decoding).
        residual: add bilinear interpolation, which is then what training starts from.
    """

    hidden: int = 256
    layers: int = 5
    unfold: bool = True
    cell: bool = True
    residual: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 2:
            raise UsageError(f"layers={self.layers}: must be at least 2")


@dataclass(frozen=True)
class IFAConfig(BaselineConfig):
    """Settings of `IFA`; the defaults are those of the authors, except `residual`.

    Attributes:
        compressed: channels of a token that the network sees.
        hidden: width of its first layer; the other two have half of it.
        frequencies: of the encoded offsets along each side.
        residual: add bilinear interpolation, which is then what training starts from.
    """

    compressed: int = 256
    hidden: int = 512
    frequencies: int = 6
    residual: bool = True


@dataclass(frozen=True)
class PACConfig(BaselineConfig):
    """Settings of `PAC`.

    Attributes:
        kernel_size: side of the window in pixels of a doubling's output.
        guidance_channels: of the map that a stem makes of the picture.
        full: a matrix of all channels for each place of the window, and kernels used as they are: as the paper prints;
            False: a number for each place, and kernels of sum one.
    """

    kernel_size: int = 5
    guidance_channels: int = 16
    full: bool = False


@dataclass(frozen=True)
class DGFConfig(BaselineConfig):
    """Settings of `DGF`.

    Attributes:
        hidden: channels between the two layers that make guidance of colours.
        radius: of the windows in tokens; the authors' value.
        epsilon: added to the variance of the guidance.
    """

    hidden: int = 64
    radius: int = 1
    epsilon: float = 1e-2


@dataclass(frozen=True)
class IndexNetConfig(BaselineConfig):
    """Settings of `IndexNet`.

    Attributes:
        guidance_channels: of the map that a stem makes of the picture.
        index: `cell` makes the four indices of a cell four times a softmax, so that their mean is one; `sigmoid` leaves
            each between zero and one, as the paper's decoder does.
    """

    guidance_channels: int = 32
    index: Literal["cell", "sigmoid"] = "cell"


@dataclass(frozen=True)
class A2UConfig(BaselineConfig):
    """Settings of `A2U`; the defaults are the paper's.

    Attributes:
        kernel_size: side of the window that is reassembled, in pixels of a doubling's input.
        encoder_size: side of the depthwise convolutions, whose kernels the picture predicts.
        rank: of the bilinear form.
        guidance_channels: of the map that a stem makes of the picture.
    """

    kernel_size: int = 3
    encoder_size: int = 5
    rank: int = 1
    guidance_channels: int = 32
