"""A norm over channels in front of an upsampler, as in the normed variants of the official FeatUp release."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError
from featup_cli.upsamplers.api import FLOAT, Details


class NormedUpsampler(nn.Module):
    """Normalise the features of every low-resolution pixel, then upsample.

    Args:
        channels: of the features.
        upsampler: takes (image, lr_feats, output_size).
    """

    def __init__(self, channels: int, upsampler: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.upsampler = upsampler
        self.details = Details()

    def arguments(self) -> dict[str, Any]:
        """What the upsampler's class makes it of, this norm included."""
        return {**self.upsampler.arguments(), "norm": True}  # type: ignore[operator]

    def forward(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Upsample the normalised features; arguments and result as the upsampler's own.

        Raises:
            ShapeError: a tensor of another shape.
        """
        return self.upsampler(image, self._normalise(lr_feats), output_size)

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int], rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """The result of the call in bands of rows; see `Upsampler.bands`."""
        bands: Callable[..., Iterator[Tensor]] = self.upsampler.bands  # type: ignore[assignment]
        yield from bands(image, self._normalise(lr_feats), output_size, rows, start)

    def band_bytes(self, lr_shape: Sequence[int], output_size: tuple[int, int], rows: int) -> int:
        """The upsampler's own, and the normalised features; see `Upsampler.band_bytes`."""
        inner = self.upsampler.band_bytes(lr_shape, output_size, rows)  # type: ignore[operator]
        return int(inner) + 2 * FLOAT * math.prod(lr_shape)

    def _normalise(self, lr_feats: Tensor) -> Tensor:
        norm = self.norm
        channels = norm.normalized_shape[0]
        if lr_feats.ndim != 4 or lr_feats.shape[1] != channels:
            raise ShapeError(f"lr_feats must be [B, {channels}, h, w], not {list(lr_feats.shape)}")
        normed = F.layer_norm(lr_feats.movedim(1, 3), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return normed.movedim(3, 1)
