"""What group norms need to know of whole maps, gathered from bands of rows.

Sums are centred band by band and added in float64, so that a mean far from zero costs no digits. A group norm whose
statistics are known is one factor and one summand per channel, which the convolution after it can take over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featup_cli.upsamplers.guidance import at_least_float32
from featup_cli.upsamplers.resfu.rows import Rows, bands_of


# Not frozen: the compiler of PyTorch 2.9 and older loses the fields of frozen records that it makes and calls.
@dataclass
class Affine:
    """A map of channels to channels: `maps * scale + shift`, both [B, C] in float64."""

    scale: Tensor
    shift: Tensor

    def __call__(self, maps: Tensor) -> Tensor:
        """Apply it to [B, C, H, W]."""
        scale, shift = (t.to(maps.dtype)[:, :, None, None] for t in (self.scale, self.shift))
        return (maps * scale).add_(shift)

    def then(self, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> tuple[Tensor, Tensor]:
        """A convolution with `weight` [L, C / groups, ...] after it: weight [B, L, C / groups * taps], bias [B, L]."""
        by_group = weight.double().flatten(1).unflatten(0, (groups, -1))
        taps = by_group.shape[2] * groups // self.scale.shape[1]
        per_tap = (t[:, :, None].expand(-1, -1, taps).flatten(1) for t in (self.scale, self.shift))
        scale, shift = (t.unflatten(1, (groups, 1, -1)) for t in per_tap)
        summand = (by_group * shift).sum(3).flatten(1)
        return (by_group * scale).flatten(1, 2), summand if bias is None else summand + bias.double()


@dataclass
class Map:
    """A map [B, D, H, W] made by rows; `norm` gives a group norm with the statistics of the whole map."""

    rows: Rows
    norm: Callable[[nn.GroupNorm], Affine]


def norms_of(maps: Sequence[tuple[Rows, nn.GroupNorm]], height: int, chunk: int) -> list[Affine]:
    """Group norms with the statistics of all rows of their maps, in one pass by `chunk` rows."""
    moments = [Moments(pairs=False) for _ in maps]
    for band in bands_of(height, chunk):
        for (rows, norm), gathered in zip(maps, moments, strict=True):
            gathered.add(rows(*band), norm.num_groups)
    return [_affine(norm, *gathered.result()) for (_, norm), gathered in zip(maps, moments, strict=True)]


class Moments:
    """Mean and variance of groups of channels, or with `pairs` mean and covariance of channels."""

    def __init__(self, *, pairs: bool) -> None:
        self.pairs, self.count = pairs, 0
        self.one: tuple[Tensor, Tensor] | None = None  # mean and sums about it, while all pixels are of one band
        self.sums: Tensor | float = 0.0
        self.products: Tensor | float = 0.0

    def add(self, maps: Tensor, groups: int) -> None:
        """Count the pixels of [B, C, rows, W], whose channels are of so many groups."""
        values = at_least_float32(maps).unflatten(1, (groups, -1)).flatten(2)
        centred = _Centred.apply if values.requires_grad else _Centred.forward  # which is faster
        mean, sums = (t.double() for t in centred(values, self.pairs, maps.shape[3]))
        if self.count == 0:
            self.one = mean, sums
        else:
            if self.one is not None:
                self._add_band(self.count, *self.one)
            self._add_band(values.shape[2], mean, sums)
            self.one = None
        self.count += values.shape[2]

    def _add_band(self, count: int, mean: Tensor, sums: Tensor) -> None:
        self.sums = self.sums + mean * count
        self.products = self.products + sums + self._product(mean) * count

    def result(self) -> tuple[Tensor, Tensor]:
        """Means [B, groups, 1] and variances of that shape; of pairs covariances [B, groups, groups]."""
        if self.one is not None:
            return self.one[0], self.one[1] / self.count
        assert isinstance(self.sums, Tensor)
        mean = self.sums / self.count
        return mean, self.products / self.count - self._product(mean)

    def _product(self, mean: Tensor) -> Tensor:
        return mean @ mean.mT if self.pairs else mean.square()

    def norm(self, norm: nn.GroupNorm, weight: Tensor | None = None, bias: Tensor | None = None) -> Affine:
        """A group norm of the channels, or of their map by `weight` [B, D, C] and `bias` [B, D]; it takes pairs."""
        mean, covariance = self.result()
        if weight is not None and bias is not None:
            mean, covariance = weight @ mean + bias[..., None], weight @ covariance @ weight.mT
        grouped = mean.unflatten(1, (norm.num_groups, -1))
        within = covariance.diagonal(dim1=1, dim2=2).unflatten(1, (norm.num_groups, -1)).mean(2, keepdim=True)
        return _affine(norm, grouped.mean(2), within + grouped.var(2, correction=0))


def _affine(norm: nn.GroupNorm, mean: Tensor, variance: Tensor) -> Affine:
    """A group norm with the mean and variance [B, groups, 1] of its groups."""
    weight, bias = (t.unflatten(0, (norm.num_groups, -1)) for t in (norm.weight, norm.bias))
    scale = (variance.clamp(min=0) + norm.eps).rsqrt() * weight
    return Affine(scale.flatten(1), (bias - mean * scale).flatten(1))


class _Centred(torch.autograd.Function):
    """Means [B, G, 1] of values [B, G, N], and sums [B, G, 1] of their squares about them.

    With `pairs` sums [B, G, G] of products of every two instead. Gradients need no centred copy of the values.
    Squares are added row by row, of `width` values: PyTorch adds those of a norm one after the other, so that a norm of
    a whole map has lost digits.
    """

    @staticmethod
    def forward(values: Tensor, pairs: bool, width: int) -> tuple[Tensor, Tensor]:
        mean = values.mean(2, keepdim=True)
        centred = values - mean
        if pairs:
            return mean, centred @ centred.mT
        rows = torch.linalg.vector_norm(centred.unflatten(2, (-1, width)), dim=3)
        return mean, rows.double().square().sum(2, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])
        ctx.pairs = inputs[1]

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_sums: Tensor) -> tuple[Tensor, None, None]:
        values, mean = ctx.saved_tensors
        slope = of_sums + of_sums.mT if ctx.pairs else 2 * of_sums
        offset = of_mean / values.shape[2] - (slope @ mean if ctx.pairs else slope * mean)
        if ctx.pairs:
            return torch.baddbmm(offset, slope, values), None, None
        return torch.addcmul(offset.to(values), values, slope.to(values)), None, None


def pointwise(
    maps: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1, *, relu: bool = False
) -> Tensor:
    """1x1 convolution of [B, D, H, W] with `weight` [L, D / groups]: faster on the CPU than PyTorch's own.

    Weight and bias may differ between the images, [B, L, D / groups] and [B, L].
    """
    out = weight.to(maps.dtype).unflatten(-2, (groups, -1)) @ maps.unflatten(1, (groups, -1)).flatten(3)
    # In place before it is reshaped: of a view, gradients would be copied.
    if bias is not None:
        out.add_(bias.to(maps.dtype).unflatten(-1, (groups, -1, 1)))
    return (out.relu_() if relu else out).flatten(1, 2).unflatten(2, maps.shape[2:])
