"""Baselines that ask the backbone for more tokens: a smaller patch stride, a larger picture, or dilated convolutions.

The first two are those of FeatUp's tables 1 and 2 and its figure 5. Between the denser tokens they interpolate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.footprint import TYPICAL_BYTES
from featup_cli.core.errors import UsageError
from featup_cli.core.shapes import MAX_TOKENS, Size, describe_size
from featup_cli.core.text import counted
from featup_cli.multiview.views import resize_picture
from featup_cli.upsamplers.api import FLOAT, Details, Extract, Rows, RowUpsampler, check_inputs
from featup_cli.upsamplers.denser.method import DILATED, LARGE_IMAGE, STRIDED
from featup_cli.upsamplers.interpolation.upsampler import Interpolation
from featup_cli.upsamplers.method import Making, Method

FACTORS = (1, 2, 4, 8)  # that are chosen unasked, up to the largest of the paper's figure 17
DEFAULT_GIB = 1.5  # the factor that is chosen unasked stays below this
LIMIT_GIB = 16.0  # more is refused: for a ViT-S/16 at 224 pixels that is 16x, as in the paper
LEAST_STRIDE = 8  # of a dilated network, as in DeepLab
TOKEN_MAPS = 24  # of all channels, that a ViT holds at once besides what the input's pixels take: measured on a CPU


@dataclass(frozen=True)
class Estimate:
    """What a run of the backbone costs.

    Attributes:
        tokens: of its output.
        attention_bytes: of one layer's attention as a matrix in float32. Fused attention does not store it, but its
            time grows alike.
        activation_bytes: rough size of what a layer holds otherwise.
    """

    tokens: int
    attention_bytes: int
    activation_bytes: int

    @property
    def gib(self) -> float:
        """Attention and activations in GiB."""
        return (self.attention_bytes + self.activation_bytes) / 2**30

    def __str__(self) -> str:
        attention = f", attention of {self.attention_bytes / 2**30:.2g} GiB a layer" if self.attention_bytes else ""
        return (
            f"{counted(self.tokens, 'token')}{attention}, activations of about {self.activation_bytes / 2**30:.2g} GiB"
        )


class DenserTokens(RowUpsampler, ABC):
    """Tokens of the backbone on a finer grid, then bilinear interpolation to the exact size.

    Args:
        backbone: the loaded one.
        network_size: (height, width) at which it sees the picture otherwise.
        factor: how many times finer along each side; None takes the largest of 2, 4 and 8 that the output has room for
            and whose estimate stays under `DEFAULT_GIB`, but at least 2.
    Raises:
        UsageError: a backbone that can't give more tokens.
    """

    method: Method

    def __init__(self, backbone: Extract, network_size: Size, factor: int | None = None) -> None:
        super().__init__()
        if not isinstance(backbone, Backbone):
            raise UsageError(f"method {self.method.name} needs a loaded backbone, not a function")
        if factor is not None and factor < 1:
            raise UsageError(f"{self.method.name}: factor {factor} must be at least 1")
        self.backbone, self.network_size, self.factor = backbone, network_size, factor
        self._interpolation = Interpolation("bilinear")
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise UsageError for a backbone, or a factor, that can't be."""

    @property
    def most(self) -> int:
        """The largest factor that can be."""
        return self.backbone.stride

    def with_stride(self, stride: int) -> Backbone:
        """The backbone with the stride of a plan."""
        return self.backbone.with_stride(stride)

    @abstractmethod
    def plan(self, factor: int) -> tuple[int, Size]:
        """Patch stride, and (height, width) of the network's input, for tokens `factor` times finer."""

    def whole(self, image: Tensor, lr_feats: Tensor, size: Size) -> Tensor:
        """Run the backbone again, for more tokens, and interpolate; arguments, result and errors as `tokens`."""
        return self._interpolation(image, self.tokens(image, lr_feats, size), size)

    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Rows:
        """The tokens; rows are interpolated."""
        return self._interpolation.prepare(image, self.tokens(image, lr_feats, size), size)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """A run of the backbone, and the interpolation."""
        batch, channels = lr_shape[:2]
        stride, size, estimate = self._choose((lr_shape[2], lr_shape[3]), output_size)[1:]
        tokens = (batch, channels, size[0] // stride, size[1] // stride)
        return batch * estimate.activation_bytes + self._interpolation.band_bytes(tokens, output_size, rows)

    @torch.no_grad()
    def tokens(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> Tensor:
        """The backbone's tokens on the finer grid.

        Args:
            image: [B, 3, H, W] in [0, 1], the picture at its own size.
            lr_feats: [B, C, h, w], what the backbone gives for it; only the shape is looked at.
            output_size: (height, width) of the result, any.
        Returns:
            [B, C, h', w'], on the device of `lr_feats`.
        Raises:
            ShapeError: other shapes.
            UsageError: computationally infeasible; the message has the estimate.
        """
        check_inputs(image, lr_feats, output_size)
        factor, stride, size, estimate = self._choose((lr_feats.shape[2], lr_feats.shape[3]), output_size)
        if estimate.tokens > MAX_TOKENS or estimate.gib > LIMIT_GIB:
            raise UsageError(
                f"{self.method.name} at {factor}x is computationally infeasible: {describe_size(size, 'pixels')} "
                f"with patch stride {stride} are {estimate} for {self.backbone.name}; the limits are "
                f"{MAX_TOKENS:,} tokens and {LIMIT_GIB:g} GiB: give a smaller --resize, or another method"
            )
        self.details = Details(
            scores={"factor": float(factor), "tokens": float(estimate.tokens)},
            notes=[
                f"{self.method.name}: {factor}x, {describe_size(size, 'pixels')}, patch stride {stride}: {estimate}"
            ],
        )
        pictures = torch.stack([resize_picture(picture, size) for picture in image])
        return self.with_stride(stride)(pictures).to(lr_feats)

    def _choose(self, grid: Size, output_size: Size) -> tuple[int, int, Size, Estimate]:
        """The factor, its `plan`, and what it costs."""
        chosen = self.factor
        if chosen is None:
            room = min(max(output_size[0] / grid[0], output_size[1] / grid[1], 1), self.most)
            fitting = [factor for factor in FACTORS if factor <= room]
            chosen = [f for f in fitting if f <= 2 or self._estimate(*self.plan(f)).gib <= DEFAULT_GIB][-1]
        stride, size = self.plan(chosen)
        return chosen, stride, size, self._estimate(stride, size)

    def _estimate(self, stride: int, size: Size) -> Estimate:
        count = (size[0] // stride) * (size[1] // stride)
        activations = TYPICAL_BYTES * size[0] * size[1] + FLOAT * TOKEN_MAPS * self.backbone.channels * count
        return Estimate(count, FLOAT * self.backbone.attention_heads * count**2, activations)


class StridedUpsampler(DenserTokens):
    """A vision transformer whose patches overlap: stride / factor instead of stride (FeatUp, section 6.2).

    Position embeddings are resampled to the denser grid, as by Amir et al. (2021). Defined for networks that cut the
    picture into patches once; a convolutional network has no such stride (see `LargeImageUpsampler`).
    """

    method = STRIDED

    def check(self) -> None:
        """Patches must be free to overlap, and begin at most every pixel."""
        if self.backbone.restride is None:
            raise UsageError(
                f"method {STRIDED.name} needs a vision transformer of one patch convolution at any input size, which "
                f"{self.backbone.name} is not; {LARGE_IMAGE.name} is the baseline for it"
            )
        if self.factor is not None and self.factor > self.backbone.stride:
            raise UsageError(
                f"{STRIDED.name}: {self.factor}x is impossible, patches of {self.backbone.name} begin every pixel at "
                f"{self.backbone.stride}x"
            )

    def plan(self, factor: int) -> tuple[int, Size]:
        """The nearest whole stride, and the nearest input size that is a multiple of it."""
        stride = max(1, round(self.backbone.stride / factor))
        height, width = (max(1, round(side / stride)) * stride for side in self.network_size)
        return stride, (height, width)


class LargeImageUpsampler(DenserTokens):
    """The backbone on an enlarged picture, so that more tokens cover it (FeatUp, section 4, "Large image")."""

    method = LARGE_IMAGE

    def check(self) -> None:
        """The input size must be free."""
        if self.backbone.fixed_size is not None:
            height, width = self.backbone.fixed_size
            raise UsageError(
                f"method {LARGE_IMAGE.name} needs a backbone of free input size; {self.backbone.name} takes "
                f"{describe_size((height, width), 'pixels')} only"
            )

    def plan(self, factor: int) -> tuple[int, Size]:
        """The backbone's own stride, and an input that is `factor` times larger."""
        return self.backbone.stride, (self.network_size[0] * factor, self.network_size[1] * factor)


class DilatedUpsampler(DenserTokens):
    """A convolutional network with dilations instead of its last strides (FeatUp, section 2): stride / factor.

    Every factor-th token along each side is that of the backbone itself.
    """

    method = DILATED

    @property
    def most(self) -> int:
        """The last of 2, 4, ... down to an output stride of 8 that the network has."""
        dilate, factor = self.backbone.dilate, 1
        while dilate and self.backbone.stride // (2 * factor) >= LEAST_STRIDE:
            if dilate(self.backbone.stride // (2 * factor)) is None:
                break
            factor *= 2
        return factor

    def check(self) -> None:
        """The network must have strides to replace."""
        if self.most == 1:
            raise UsageError(
                f"method {DILATED.name} needs a convolutional network of timm with output strides, such as resnet50, "
                f"and features of a stride above {LEAST_STRIDE}; {self.backbone.name} has none; {LARGE_IMAGE.name} "
                "takes it"
            )
        if self.factor is not None and (self.factor > self.most or self.factor & (self.factor - 1)):
            raise UsageError(
                f"{DILATED.name}: {self.factor}x is impossible; choose a power of two up to {self.most} for "
                f"{self.backbone.name}"
            )

    def plan(self, factor: int) -> tuple[int, Size]:
        """The smaller output stride, and the backbone's own input size."""
        return self.backbone.stride // factor, self.network_size

    def with_stride(self, stride: int) -> Backbone:
        """The backbone with this output stride."""
        return self.backbone.with_output_stride(stride)


def build(making: Making) -> DenserTokens:
    """The upsampler of a record."""
    assert making.backbone is not None
    assert making.network_size is not None
    kind = next(
        kind for kind in (StridedUpsampler, LargeImageUpsampler, DilatedUpsampler) if kind.method is making.method
    )
    return kind(making.backbone, making.network_size)
