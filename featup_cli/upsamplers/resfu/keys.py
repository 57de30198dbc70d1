"""Keys whose neighbours lie one low-resolution pixel apart, read at every output pixel.

Two kinds with the same methods: `LowResKey`, a low-resolution map that is upsampled (or repeated) when read, and
`HighResKey`, a map on the output grid. Neighbours outside the map are those of its border.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.resfu.sampling import Lookup, centres, lookup

Rows = Callable[[slice], Tensor]
"""Some rows of a map on the output grid: a slice to [B, L, rows, W]."""


@dataclass(frozen=True)
class LowResKey:
    """A key [B, D, h, w], upsampled bilinearly to `size`, or repeated if `coarse`.

    Upsampling is linear and the same for all channels, so whatever is linear can be done before it, at low
    resolution: a convolution with neighbours one low-resolution pixel apart is an ordinary one there.
    """

    maps: Tensor
    size: tuple[int, int]
    coarse: bool = False

    def _lookup(self, dim: int, pad: int) -> Lookup:
        """Along dimension `dim` of the maps, padded on both sides by `pad` cells."""
        cells = self.maps.shape[dim]
        positions = centres(self.size[dim - 2], cells, self.maps.device, coarse=self.coarse)
        return lookup(positions + pad, cells + 2 * pad)

    def every_second_pixel(self) -> Tensor:
        """The upsampled map at rows and columns 0, 2, 4, ...: [B, D, H // 2, W // 2] (at least 1)."""
        rows, columns = (self._lookup(dim, 0)[: max(2, self.size[dim - 2]) // 2 * 2 : 2] for dim in (2, 3))
        return rows(columns(self.maps, 3), 2)

    def neighbor(self, dy: int, dx: int) -> Tensor:
        """The neighbours at offset (dy, dx) of all output pixels: [B, D, H, W]."""
        height, width = self.maps.shape[2:]
        rows = (torch.arange(-1, height + 1, device=self.maps.device) + dy).clamp(0, height - 1)
        columns = (torch.arange(-1, width + 1, device=self.maps.device) + dx).clamp(0, width - 1)
        shifted = self.maps.index_select(2, rows).index_select(3, columns)
        return self._lookup(2, 1)(self._lookup(3, 1)(shifted, 3), 2)

    def normalised(self, norm: nn.GroupNorm) -> LowResKey:
        """Apply a group norm with the statistics that the upsampled map would have."""
        grouped = self.maps.unflatten(1, (norm.num_groups, -1)).to(torch.promote_types(self.maps.dtype, torch.float32))
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
        return replace(self, maps=maps * norm.weight[:, None, None] + norm.bias[:, None, None])

    def convolved(self, weight: Tensor, bias: Tensor, groups: int) -> Rows:
        """Convolution with `weight` [L, D / groups, K, K] over the neighbours."""
        # Output pixels at the border lie up to half a cell outside the outer centres, hence one more cell around.
        padded = F.pad(self.maps, (weight.shape[-1] // 2 + 1,) * 4, mode="replicate")
        response = self._lookup(3, 1)(F.conv2d(padded, weight, bias, groups=groups), 3)
        lookup_rows = self._lookup(2, 1)
        return lambda rows: lookup_rows[rows](response, 2)


@dataclass(frozen=True)
class HighResKey:
    """A key [B, D, H, W] on the output grid; neighbours are `step` (rows, columns) output pixels apart.

    A step that is not whole is read by bilinear interpolation.
    """

    maps: Tensor
    step: tuple[float, float]

    def neighbor(self, dy: int, dx: int) -> Tensor:
        """The neighbours at offset (dy, dx) of all output pixels: [B, D, H, W]."""
        return _Padded.of(self, max(abs(dy), abs(dx))).read(dy, dx, slice(0, self.maps.shape[2]))

    def normalised(self, norm: nn.GroupNorm) -> HighResKey:
        """Apply a group norm."""
        return replace(self, maps=norm(self.maps))

    def convolved(self, weight: Tensor, bias: Tensor, groups: int) -> Rows:
        """Convolution with `weight` [L, D / groups, K, K] over the neighbours."""
        radius = weight.shape[-1] // 2
        offsets = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
        padded = _Padded.of(self, radius)
        dilation = int(self.step[0]), int(self.step[1])
        all_rows = slice(0, self.maps.shape[2]) if dilation == self.step else None

        def rows_of(rows: slice) -> Tensor:
            if rows == all_rows:
                return F.conv2d(padded.maps, weight, bias, dilation=dilation, groups=groups)
            # A band of few rows has neighbours far above and below: gathering reads no rows between.
            near = torch.stack([padded.read(dy, dx, rows) for dy, dx in offsets], 2)
            return pointwise(near.flatten(1, 2), weight.flatten(1), groups, bias)

        return rows_of


@dataclass(frozen=True)
class _Padded:
    """A high-resolution key with its outer pixels repeated as far as its neighbours reach, `border` (rows, columns)."""

    maps: Tensor
    step: tuple[float, float]
    border: tuple[int, int]

    @staticmethod
    def of(key: HighResKey, radius: int) -> _Padded:
        """With room for neighbours up to `radius` steps away."""
        down, right = (math.ceil(radius * step) for step in key.step)
        return _Padded(F.pad(key.maps, (right, right, down, down), mode="replicate"), key.step, (down, right))

    def read(self, dy: int, dx: int, rows: slice) -> Tensor:
        """The neighbours at offset (dy, dx) of some rows of output pixels: [B, D, rows, W]."""
        down, right = self.border[0] + dy * self.step[0], self.border[1] + dx * self.step[1]
        maps = slice_between(self.maps, 2, rows.start + down, rows.stop - rows.start)
        return slice_between(maps, 3, right, self.maps.shape[3] - 2 * self.border[1])


def slice_between(maps: Tensor, dim: int, start: float, length: int) -> Tensor:
    """`length` values from `start` on, interpolated linearly if it lies between two."""
    whole = math.floor(start)
    first = maps.narrow(dim, whole, length)
    return first if start == whole else first.lerp(maps.narrow(dim, whole + 1, length), start - whole)


def pointwise(maps: Tensor, weight: Tensor, groups: int, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of [B, D, H, W] with `weight` [L, D / groups]: faster on the CPU than PyTorch's own."""
    by_group = weight.unflatten(0, (groups, -1))
    out = (by_group @ maps.unflatten(1, (groups, -1)).flatten(3)).flatten(1, 2).unflatten(2, maps.shape[2:])
    return out if bias is None else out.add_(bias[:, None, None])


Key = LowResKey | HighResKey
