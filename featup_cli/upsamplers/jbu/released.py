"""The joint bilateral upsampler as the authors of FeatUp released it, for their checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.ops.taps import Size, guidance_rows, interpolating_rows, resize_rows
from featup_cli.upsamplers.api import FLOAT, UpsamplerModule, check_inputs, without_gradients
from featup_cli.upsamplers.jbu.bands import BandedStack, stack_bytes
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.stack import apply_stack
from featup_cli.upsamplers.jbu.stage import Band, JBUStage, weigh_in_parts, whole
from featup_cli.upsamplers.weights.normed import NormedUpsampler

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_STAGES = 4
_CONFIG = JBUConfig(
    stages=_STAGES, shared=False, unit_keys=False, temperature=1.0, dropout=0.1, sharpen_lr=0.0, sharpen_lr_wide=0.0
)
_MAPS = 200  # held while weights are made: keys of 32 channels, and the correction's two hidden layers


class ReleasedStage(JBUStage):
    """A stage with a learned correction after normalisation, so that weights no longer sum to one."""

    def __init__(self, config: JBUConfig) -> None:
        super().__init__(config)
        taps = (2 * config.radius + 1) ** 2
        self.fixup_proj = nn.Sequential(
            nn.Conv2d(taps + 3, taps, 1), nn.GELU(), nn.Dropout2d(config.dropout), nn.Conv2d(taps, taps, 1)
        )

    def forward(self, guidance: Tensor, coarseness: int = 0, band: Band | None = None) -> Tensor:
        """Weights [B, k * k, rows, W] of a guidance [B, 3, H, W]; arguments as for every stage."""
        band = band or whole((guidance.shape[2], guidance.shape[3]), self.radius)
        taps = super().forward(guidance, coarseness, band)
        return taps.add(self.fixup_proj(torch.cat((taps, band.inner(guidance)), 1)), alpha=0.1)


class ReleasedJBU(UpsamplerModule):
    """Four x2 stages and a residual 1x1 convolution; names of parameters as in the official checkpoints.

    Unlike `JBUUpsampler` it does not keep constants, and its weights belong to one backbone.

    Args:
        channels: of the features.
        mean, std: of the pictures that it was trained on; the picture is normalised with them.
    """

    def __init__(
        self,
        channels: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__(channels, _CONFIG)
        config = _CONFIG
        self.up1, self.up2, self.up3, self.up4 = (ReleasedStage(config) for _ in range(_STAGES))
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(channels, channels, 1))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.resize = config.resize

    @classmethod
    def from_arguments(cls, *, channels: int, norm: bool = False) -> nn.Module:  # type: ignore[override]
        """A module with random weights, with or without a norm over channels before it."""
        return NormedUpsampler(channels, cls(channels)) if norm else cls(channels)

    def arguments(self) -> dict[str, Any]:
        """What `from_arguments` makes it of."""
        return {"channels": self.channels, "norm": False}

    def forward(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> Tensor:  # type: ignore[override]
        """Upsample features 16 times; any other output size is reached by resizing the result bilinearly.

        Args:
            image: [B, 3, H', W'] in [0, 1], at any size.
            lr_feats: [B, C, h, w] with the `channels` of the constructor.
            output_size: (H, W), any.
        Returns:
            [B, C, H, W].
        Raises:
            ShapeError: a tensor of another shape.
        """
        check_inputs(image, lr_feats, output_size)
        sizes = _sizes_for(lr_feats.shape)
        hr_feats = self.apply_taps(self.taps_of(image, sizes), lr_feats)
        if sizes[-1] == tuple(output_size):
            return hr_feats
        return F.interpolate(hr_feats, size=output_size, mode="bilinear", align_corners=False)

    def taps_of(self, image: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
        """Weights [B, 49, *size] of each stage for a picture [B, 3, H', W'] in [0, 1]."""
        return [self._weigh(image, sizes, i, whole(size, self.up1.radius)) for i, size in enumerate(sizes)]

    def _weigh(self, image: Tensor, sizes: Sequence[Size], number: int, band: Band) -> Tensor:
        """Weights of a band of stage `number`; without gradients a few rows at a time, as keys are many maps."""
        return weigh_in_parts(partial(self._weigh_rows, image, sizes, number), band)

    def _weigh_rows(self, image: Tensor, sizes: Sequence[Size], number: int, band: Band) -> Tensor:
        # Normalised afterwards, which is the same, so that the whole picture isn't copied.
        guidance = (guidance_rows(image, sizes[number], band.first, band.stop) - self.mean) / self.std
        stage = (self.up1, self.up2, self.up3, self.up4)[number]
        weights: Tensor = stage(guidance, band=band)
        return weights

    def apply_taps(self, taps: Sequence[Tensor], feats: Tensor) -> Tensor:
        """Filter features [B, C, h, w] with the weights of all stages and add the residual: [B, C, H, W]."""
        return apply_stack(taps, self._mix_channels(feats), self.resize).add_(self._bias())

    def _mix_channels(self, feats: Tensor) -> Tensor:
        """The residual without its bias. It mixes channels and the stack mixes pixels, so they commute but for the
        bias: mixing channels at low resolution is 256 times cheaper."""
        dropout, residual = self.fixup_proj
        return feats + 0.1 * F.conv2d(dropout(feats), residual.get_parameter("weight"))

    def _bias(self) -> Tensor:
        return 0.1 * self.fixup_proj[1].get_parameter("bias")[:, None, None]

    @without_gradients
    def bands(self, image: Tensor, lr_feats: Tensor, output_size: Size, rows: int, start: int = 0) -> Iterator[Tensor]:
        """The result of the call in bands of rows; see `Upsampler.bands`."""
        check_inputs(image, lr_feats, output_size)
        sizes = _sizes_for(lr_feats.shape)
        weigh = partial(self._weigh, image, sizes)
        stack = BandedStack(self._mix_channels(lr_feats), sizes, self.up1.radius, self.resize, weigh)
        final = interpolating_rows("bilinear", output_size[0], sizes[-1][0], lr_feats)
        for top in range(start, output_size[0], rows):
            bottom = min(top + rows, output_size[0])
            if sizes[-1] == tuple(output_size):
                yield stack(top, bottom).add_(self._bias())
            else:
                part = final[top:bottom]
                first, stop = part.span()
                yield resize_rows(stack(first, stop), part, output_size[1], "bilinear", first).add_(self._bias())

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The rows of all stages that a band needs, and their weights; see `Upsampler.band_bytes`."""
        sizes = _sizes_for(lr_shape)
        needed = min(math.ceil(rows * sizes[-1][0] / output_size[0]) + 2, sizes[-1][0])
        stages = stack_bytes(lr_shape, sizes, self.up1.radius, _MAPS, needed)
        return stages + FLOAT * lr_shape[0] * lr_shape[1] * rows * (output_size[1] + 2 * sizes[-1][1])


def _sizes_for(lr_shape: Sequence[int]) -> list[Size]:
    """Output grids of the stages for features [B, C, h, w]."""
    return [(lr_shape[2] * 2**i, lr_shape[3] * 2**i) for i in range(1, _STAGES + 1)]
