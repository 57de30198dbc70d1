"""The joint bilateral upsampler as the authors of FeatUp released it, for their checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.ops.taps import interpolating_rows, resize_rows
from featup_cli.upsamplers.api import FLOAT, Rows, UpsamplerModule, check_inputs
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.plan import stack_bytes
from featup_cli.upsamplers.jbu.stack import Stack
from featup_cli.upsamplers.jbu.stage import Band, JBUStage
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

    def forward(self, guidance: Tensor, band: Band, coarseness: int = 0) -> Tensor:
        """Weights [B, k * k, rows, W] of a guidance [B, 3, H, W]; arguments as for every stage."""
        taps = super().forward(guidance, band, coarseness)
        return taps.add(self.fixup_proj(torch.cat((taps, band.inner(guidance)), 1)), alpha=0.1)


class ReleasedJBU(UpsamplerModule):
    """Four x2 stages and a residual 1x1 convolution; names of parameters as in the official checkpoints.

    Unlike `JBUUpsampler` it does not keep constants, and its weights belong to one backbone. Features become 16 times
    as large; any other output size is reached by resizing that bilinearly. Channels are mixed: `values` are not read.

    Args:
        channels: of the features.
    """

    shares_weights = False
    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, _CONFIG)
        self.up1, self.up2, self.up3, self.up4 = (ReleasedStage(_CONFIG) for _ in range(_STAGES))
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(channels, channels, 1))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    @classmethod
    def from_arguments(cls, *, channels: int, norm: bool = False) -> UpsamplerModule:  # type: ignore[override]
        """A module with random weights, with or without a norm over channels before it."""
        return NormedUpsampler(channels, cls(channels)) if norm else cls(channels)

    def arguments(self) -> dict[str, Any]:
        """What `from_arguments` makes it of."""
        return {"channels": self.channels, "norm": False}

    def prepare(
        self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None = None, *, whole: bool = True
    ) -> Rows:
        """The stack; rows are resized, and get the bias of the residual."""
        check_inputs(image, lr_feats, size)
        sizes, stages = _sizes_for(lr_feats.shape), (self.up1, self.up2, self.up3, self.up4)

        def weigh(number: int, guidance: Tensor, band: Band) -> Tensor:
            # Normalised here, which is the same, so that the whole picture isn't copied.
            taps: Tensor = stages[number]((guidance - self.mean) / self.std, band)
            return taps

        # The residual mixes channels and the stack mixes pixels, so they commute but for the bias: mixing channels at
        # low resolution is 256 times cheaper.
        dropout, residual = self.fixup_proj
        feats = lr_feats + 0.1 * F.conv2d(dropout(lr_feats), residual.get_parameter("weight"))
        bias = 0.1 * residual.get_parameter("bias")[:, None, None]
        stack = Stack(image, feats, sizes, _CONFIG.radius, _CONFIG.resize, weigh)
        if sizes[-1] == tuple(size):
            return lambda top, bottom: stack(top, bottom).add_(bias)
        final = interpolating_rows("bilinear", size[0], sizes[-1][0], lr_feats)

        def rows(top: int, bottom: int) -> Tensor:
            part, seen = final.part(top, bottom)
            return resize_rows(stack(seen.start, seen.stop), part, size[1], "bilinear").add_(bias)

        return rows

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The rows of all stages that a band needs, and their weights."""
        sizes = _sizes_for(lr_shape)
        needed = min(math.ceil(rows * sizes[-1][0] / output_size[0]) + 2, sizes[-1][0])
        stages = stack_bytes(lr_shape, sizes, _CONFIG.radius, _MAPS, needed)
        return stages + FLOAT * lr_shape[0] * lr_shape[1] * rows * (output_size[1] + 2 * sizes[-1][1])


def _sizes_for(lr_shape: Sequence[int]) -> list[Size]:
    """Output grids of the stages for features [B, C, h, w]."""
    return [(lr_shape[2] * 2**i, lr_shape[3] * 2**i) for i in range(1, _STAGES + 1)]
