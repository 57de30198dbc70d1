"""What group norms need to know of whole maps, gathered from bands of rows.

Sums are centred band by band and added in float64, so that a mean far from zero costs no digits. A group norm whose
statistics are known is one factor and one summand per channel, which the convolution after it can take over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featup_cli.upsamplers.guidance import at_least_float32


@dataclass(frozen=True)
class Affine:
    """A map of channels to channels: `maps * scale + shift`, both [B, C] in float64."""

    scale: Tensor
    shift: Tensor

    def __call__(self, maps: Tensor) -> Tensor:
        """Apply it to [B, C, H, W], in place."""
        scale, shift = (t.to(maps.dtype)[:, :, None, None] for t in (self.scale, self.shift))
        return maps.mul_(scale).add_(shift)

    def repeated(self, count: int) -> Affine:
        """For maps with `count` channels in place of each."""
        return Affine(self.scale.repeat_interleave(count, 1), self.shift.repeat_interleave(count, 1))

    def then(self, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> tuple[Tensor, Tensor]:
        """A 1x1 convolution with `weight` [L, C / groups] after it, as weight [B, L, C / groups] and bias [B, L]."""
        by_group = weight.double().unflatten(0, (groups, -1))
        scale, shift = (t.unflatten(1, (groups, 1, -1)) for t in (self.scale, self.shift))
        summand = (by_group * shift).sum(3).flatten(1)
        return (by_group * scale).flatten(1, 2), summand if bias is None else summand + bias.double()


class GroupMoments:
    """Mean and variance of every group of a group norm."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        self.norm = norm
        self.count = 0
        self.sums: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, maps: Tensor) -> None:
        """Count the pixels of [B, C, rows, W]."""
        grouped = at_least_float32(maps).unflatten(1, (self.norm.num_groups, -1)).flatten(2)
        mean = grouped.mean(2, keepdim=True)
        spread = torch.linalg.vector_norm(grouped - mean, dim=2).double().square()
        mean = mean[..., 0].double()
        self.count += grouped.shape[2]
        self.sums = self.sums + mean * grouped.shape[2]
        self.squares = self.squares + spread + mean.square() * grouped.shape[2]

    def affine(self) -> Affine:
        """The norm with these statistics."""
        assert isinstance(self.sums, Tensor)
        mean = self.sums / self.count
        return _affine(self.norm, mean, self.squares / self.count - mean.square())


class ChannelMoments:
    """Mean and covariance of channels; they give those of any linear map of the channels."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | float = 0.0
        self.products: Tensor | float = 0.0

    def add(self, maps: Tensor) -> None:
        """Count the pixels of [B, C, rows, W]."""
        flat = at_least_float32(maps).flatten(2)
        mean = flat.mean(2, keepdim=True)
        centred = flat - mean
        mean = mean.double()
        self.count += flat.shape[2]
        self.sums = self.sums + mean[..., 0] * flat.shape[2]
        self.products = self.products + (centred @ centred.mT).double() + mean @ mean.mT * flat.shape[2]

    def affine(self, norm: nn.GroupNorm, weight: Tensor | None = None, bias: Tensor | None = None) -> Affine:
        """The norm with the statistics of the channels, or of their map by `weight` [B, D, C] and `bias` [B, D]."""
        assert isinstance(self.sums, Tensor)
        mean = self.sums[..., None] / self.count
        covariance = self.products / self.count - mean @ mean.mT
        if weight is not None and bias is not None:
            mean = weight @ mean + bias[..., None]
            covariance = weight @ covariance @ weight.mT
        grouped = mean.unflatten(1, (norm.num_groups, -1))
        within = covariance.diagonal(dim1=1, dim2=2).unflatten(1, (norm.num_groups, -1)).mean(2)
        return _affine(norm, grouped.mean((2, 3)), within + grouped.var((2, 3), correction=0))


def _affine(norm: nn.GroupNorm, mean: Tensor, variance: Tensor) -> Affine:
    """A group norm with the mean and variance [B, groups] of its groups."""
    size = norm.num_channels // norm.num_groups
    scale = (variance.clamp(min=0) + norm.eps).rsqrt().repeat_interleave(size, 1) * norm.weight
    return Affine(scale, norm.bias - mean.repeat_interleave(size, 1) * scale)
