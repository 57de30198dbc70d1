"""What baselines that mix pixels share: weights are predicted from features, and all channels use the same."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from featup_kernels import adaptive_conv
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.baselines.doubling import DoublingUpsampler, doublings, resize

_LEAST_TAP = 1e-3  # of an initial kernel, so that every neighbour can win


class PixelMixer(DoublingUpsampler):
    """Mixes pixels, with weights that all channels share and that sum to one.

    Weights depend on `codes`, a linear map of the normalised features. A linear map commutes with mixing pixels, so
    codes are made once, at low resolution, and doubled beside the features: the same as making them again from the
    features of every grid, at a fraction of the cost.

    Args:
        channels: C, of the features.
    """

    def __init__(self, channels: int, config: Any = None) -> None:
        super().__init__(channels, config)
        self.norm = nn.GroupNorm(math.gcd(32, channels), channels)

    @abstractmethod
    def encode(self, normalised: Tensor) -> Tensor:
        """Codes [B, D, h, w] of normalised features [B, C, h, w]; linear."""

    @abstractmethod
    def predict(self, codes: Tensor, image: Tensor) -> Tensor:
        """What `mix` needs to double a grid, from its codes [B, D, h, w] and the picture [B, 3, H', W']."""

    @abstractmethod
    def mix(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Double [B, K, h, w] with weights that `predict` made: [B, K, 2 h, 2 w]."""

    def upsample(self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None) -> Tensor:
        """Predict weights and mix, doubling by doubling."""
        maps = lr_feats if values is None else values
        # Weights are predicted in the dtype of the parameters, whatever that of the features.
        image, seen = image.to(self.norm.weight.dtype), lr_feats.to(self.norm.weight.dtype)
        codes = self.encode(self.norm(seen))
        steps = doublings((lr_feats.shape[2], lr_feats.shape[3]), size)
        for step in range(1, steps + 1):
            weights = self.predict(codes, image)
            maps = self.mix(maps, weights)
            if step < steps:
                codes = self.mix(codes, weights)
        return resize(maps, size)


class PictureMixer(DoublingUpsampler):
    """Mixes pixels with weights that depend on the picture alone."""

    @abstractmethod
    def predict(self, image: Tensor, grid: Size) -> Tensor:
        """What `mix` needs to double a grid (h, w), from the picture [B, 3, H', W']."""

    @abstractmethod
    def mix(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Double [B, K, h, w] with weights that `predict` made: [B, K, 2 h, 2 w]."""

    def upsample(self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None) -> Tensor:
        """Predict weights and mix, doubling by doubling."""
        maps = lr_feats if values is None else values
        image = image.to(next(self.parameters()).dtype)
        for _ in range(doublings((lr_feats.shape[2], lr_feats.shape[3]), size)):
            maps = self.mix(maps, self.predict(image, (maps.shape[2], maps.shape[3])))
        return resize(maps, size)


class Reassembler(PixelMixer):
    """A `PixelMixer` whose weights are taps [B, 4, k * k, h, w], for `reassemble`."""

    def mix(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Double [B, K, h, w] with taps [B, 4, k * k, h, w]: [B, K, 2 h, 2 w]."""
        return reassemble(maps, weights)


def reassemble(maps: Tensor, taps: Tensor) -> Tensor:
    """Double a grid: each new pixel is a weighted sum of the window around the old pixel that it lies in.

    out[b, c, 2 y + i, 2 x + j] = sum over t of taps[b, 2 i + j, t, y, x] * maps[b, c, y + t // k - r, x + t % k - r]

    with r = k // 2, and the border repeating its outer pixels (CARAFE, section 3).

    Args:
        maps: [B, C, h, w].
        taps: [B, 4, k * k, h, w], k odd, used as given.
    Returns:
        [B, C, 2 h, 2 w].
    """
    padded = F.pad(maps, (math.isqrt(taps.shape[2]) // 2,) * 4, mode="replicate")
    by_old = torch.stack([adaptive_conv(padded, part.to(padded.dtype)) for part in taps.unbind(1)], 2)
    return F.pixel_shuffle(by_old.flatten(1, 2), 2)


def by_old_pixel(maps: Tensor) -> Tensor:
    """Gather the four new pixels of each old one: [B, D, 2 h, 2 w] to [B, D, 4, h, w], row-major."""
    return F.pixel_unshuffle(maps, 2).unflatten(1, (maps.shape[1], 4))


def bilinear_taps(kernel_size: int) -> Tensor:
    """Taps [4, k * k] with which `reassemble` interpolates bilinearly; k at least 3."""
    radius = kernel_size // 2
    axis = torch.zeros(2, kernel_size)
    axis[:, radius] = 0.75
    axis[0, radius - 1] = axis[1, radius + 1] = 0.25
    return torch.einsum("iy,jx->ijyx", axis, axis).reshape(4, -1)


def initial_logits(taps: Tensor) -> Tensor:
    """Logits whose softmax is close to `taps`, none of which is left at zero."""
    return (taps + _LEAST_TAP).log()
