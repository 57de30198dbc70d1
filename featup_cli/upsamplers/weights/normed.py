"""A norm over channels in front of an upsampler, as in the normed variants of the official FeatUp release."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError
from featup_cli.core.shapes import Size
from featup_cli.upsamplers.api import FLOAT, UpsamplerModule


class NormedUpsampler(UpsamplerModule):
    """Normalise the features of every low-resolution pixel, then upsample.

    Args:
        channels: of the features.
        upsampler: what upsamples them.
    """

    def __init__(self, channels: int, upsampler: UpsamplerModule) -> None:
        super().__init__(channels, upsampler.config)
        self.norm = nn.LayerNorm(channels)
        self.upsampler = upsampler
        self.shares_weights = upsampler.shares_weights

    def arguments(self) -> dict[str, Any]:
        """What the upsampler's class makes it of, this norm included."""
        return {**self.upsampler.arguments(), "norm": True}

    def prepare(
        self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None = None, *, whole: bool = True
    ) -> Any:
        """What the upsampler prepares of the normalised features; `values` are taken as they are."""
        norm = self.norm
        if lr_feats.ndim != 4 or lr_feats.shape[1] != self.channels:
            raise ShapeError(f"lr_feats must be [B, {self.channels}, h, w], not {list(lr_feats.shape)}")
        normed = F.layer_norm(lr_feats.movedim(1, 3), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return self.upsampler.prepare(image, normed.movedim(3, 1), size, values, whole=whole)

    def rows(self, prepared: Any, top: int, bottom: int) -> Tensor:
        """The upsampler's own."""
        return self.upsampler.rows(prepared, top, bottom)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The upsampler's own, and the normalised features."""
        return self.upsampler.band_bytes(lr_shape, output_size, rows) + 2 * FLOAT * math.prod(lr_shape)
