"""Keys whose neighbours lie one low-resolution pixel apart, read at every output pixel.

Two kinds: `LowResKey`, a low-resolution map that is upsampled (or repeated) when read, and `HighResKey`, a map on the
output grid. Neighbours outside the map are those of its border.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.guidance import at_least_float32, resize_guidance
from featup_cli.upsamplers.resfu.plan import Plan
from featup_cli.upsamplers.resfu.rows import Rows, clamped
from featup_cli.upsamplers.resfu.sampling import Lookup, centres, lookup
from featup_cli.upsamplers.resfu.statistics import Affine, Map


@dataclass
class LowResKey:
    """A key [B, D, h, w], upsampled bilinearly to `size`, or repeated if `coarse`.

    Upsampling is linear and the same for all channels, so whatever is linear can be done before it, at low
    resolution: a convolution with neighbours one low-resolution pixel apart is an ordinary one there.
    """

    maps: Tensor
    size: Size
    coarse: bool = False

    def _lookup(self, dim: int, pad: int) -> Lookup:
        """Along dimension `dim` of the maps, padded on both sides by `pad` cells."""
        cells = self.maps.shape[dim]
        positions = centres(self.size[dim - 2], cells, self.maps.device, coarse=self.coarse)
        return lookup(positions + pad, cells + 2 * pad)

    def sparse(self, scale: int, start: int, stop: int) -> Tensor:
        """Rows of the upsampled map at its rows and columns 0, `scale`, ...: [B, D, stop - start, W // scale].

        There is one row and one column at least.
        """
        stops = (max(scale, n) // scale * scale for n in self.size)
        rows, columns = (self._lookup(dim, 0)[:end:scale] for dim, end in zip((2, 3), stops, strict=True))
        return columns(rows[start:stop](self.maps, 2), 3)

    def neighbors(self, radius: int, start: int, stop: int) -> Iterator[Tensor]:
        """The neighbours of some rows at all offsets up to `radius`, row by row: each [B, D, stop - start, W]."""
        rows, columns = self._lookup(2, 1)[start:stop], self._lookup(3, 1)
        # Output pixels at the border lie up to half a cell outside the outer centres: hence one more cell around.
        padded = F.pad(self.maps, (radius + 1,) * 4, mode="replicate")
        (height, width), offsets = self.maps.shape[2:], range(2 * radius + 1)
        for band in (rows(padded.narrow(2, dy, height + 2), 2) for dy in offsets):
            yield from (columns(band.narrow(3, dx, width + 2), 3) for dx in offsets)

    def normalised(self, norm: nn.GroupNorm) -> LowResKey:
        """Apply a group norm with the statistics that the upsampled map would have."""
        grouped = at_least_float32(self.maps).unflatten(1, (norm.num_groups, -1))
        # Row i says how much every low-resolution cell weighs in output row i.
        rows, columns = (
            self._lookup(dim, 0)(torch.eye(self.maps.shape[dim], dtype=grouped.dtype, device=grouped.device), 0)
            for dim in (2, 3)
        )
        weights = rows.mean(0)[:, None] * columns.mean(0)
        mean = (grouped * weights).sum((3, 4), keepdim=True).mean(2, keepdim=True)
        centred = grouped - mean
        squares = (rows.T @ rows / len(rows)) @ centred @ (columns.T @ columns / len(columns)) * centred
        variance = squares.sum((3, 4), keepdim=True).mean(2, keepdim=True)
        maps = (centred * (variance + norm.eps).rsqrt()).flatten(1, 2).to(self.maps.dtype)
        maps = maps * norm.weight[:, None, None] + norm.bias[:, None, None]
        return LowResKey(maps, self.size, self.coarse)

    def convolved(self, weight: Tensor, bias: Tensor, groups: int, plan: Plan) -> Rows:
        """Convolution over neighbours with `weight` [L, D / groups, K, K] and `bias` [B, L]: rows of [B, L, H, W]."""
        padded = F.pad(self.maps, (weight.shape[-1] // 2 + 1,) * 4, mode="replicate")
        response = F.conv2d(padded, weight, groups=groups) + bias.to(self.maps.dtype)[:, :, None, None]
        rows, columns = self._lookup(2, 1), self._lookup(3, 1)
        height, cells = self.size[0], self.maps.shape[2]
        widened = plan.kept(  # few low-resolution rows are as wide as the output at a time
            lambda start, stop: columns(response[:, :, start:stop], 3),
            1, plan.rows * cells // height + 3, wide=True, height=cells + 2,
        )  # fmt: skip

        def rows_of(start: int, stop: int) -> Tensor:
            part, first, last = rows.part(start, stop)
            maps = widened(first, last)
            if last - first <= 2:  # all lie between the same two
                return torch.lerp(maps[:, :, :1], maps[:, :, -1:], part.share.to(maps.dtype)[:, None])
            return part(maps, 2)

        return rows_of


@dataclass
class HighResKey:
    """A key [B, D, H, W] on the output grid; neighbours are `step` (rows, columns) output pixels apart.

    A step that is not whole is read by bilinear interpolation.
    """

    map: Map
    size: Size
    step: tuple[float, float]

    def neighbors(self, radius: int, start: int, stop: int) -> Iterator[Tensor]:
        """The neighbours of some rows at all offsets up to `radius`, row by row: each [B, D, stop - start, W]."""
        right = math.ceil(radius * self.step[1])
        for down in (dy * self.step[0] for dy in range(-radius, radius + 1)):
            whole = math.floor(down)
            maps = clamped(self.map.rows, self.size[0], start + whole, stop + math.ceil(down))
            band = F.pad(_shifted(maps, 2, down - whole, stop - start), (right, right, 0, 0), mode="replicate")
            for dx in range(-radius, radius + 1):
                yield _shifted(band, 3, right + dx * self.step[1], self.size[1])

    def dilated(self, norm: Affine, weight: Tensor, groups: int) -> Tensor:
        """Convolution with `weight` [L, D / groups, K, K] of the whole after a norm, if the step is whole."""
        radius = weight.shape[-1] // 2
        down, right = int(self.step[0]), int(self.step[1])
        maps = norm(self.map.rows(0, self.size[0]))
        padded = F.pad(maps, (radius * right,) * 2 + (radius * down,) * 2, mode="replicate")
        return F.conv2d(padded, weight, dilation=(down, right), groups=groups)


def _shifted(maps: Tensor, dim: int, start: float, length: int) -> Tensor:
    """`length` values from `start` on, interpolated linearly if it lies between two."""
    whole = math.floor(start)
    first = maps.narrow(dim, whole, length)
    return first if start == whole else first.lerp(maps.narrow(dim, whole + 1, length), start - whole)


Key = LowResKey | HighResKey


def detail_key(smooth: Map, plan: Plan) -> Key:
    """The key of the detail score: the smoothed query, or with coarse neighbours its means over their cells."""
    height = plan.size[0]
    if plan.config.neighbors == "fine":
        return HighResKey(smooth, plan.size, plan.step)
    # As `resize_guidance` pools, one row of cells at a time.
    pooled = [min(sides) for sides in zip(plan.size, plan.lr_size, strict=True)]
    edges = [(i * height // pooled[0], -(-(i + 1) * height // pooled[0])) for i in range(pooled[0])]
    maps = torch.cat([F.adaptive_avg_pool2d(smooth.rows(*edge), (1, pooled[1])) for edge in edges], 2)
    return LowResKey(resize_guidance(maps, plan.lr_size), plan.size, coarse=True)
