"""Keys whose neighbours lie one low-resolution pixel apart, read at every output pixel.

Two kinds with the same methods: `LowResKey`, a low-resolution map that is upsampled (or repeated) when read, and
`HighResKey`, a map on the output grid. Neighbours outside the map are those of its border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.resfu.rows import Rows, Window, clamped, stored
from featup_cli.upsamplers.resfu.sampling import Lookup, centres, lookup


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

    def every_second_pixel(self, start: int, stop: int) -> Tensor:
        """Rows of the upsampled map at its rows and columns 0, 2, 4, ...: [B, D, stop - start, W // 2 (at least 1)]."""
        rows, columns = (self._lookup(dim, 0)[: max(2, self.size[dim - 2]) // 2 * 2 : 2] for dim in (2, 3))
        return columns(rows[start:stop](self.maps, 2), 3)

    def neighbor(self, dy: int, dx: int, start: int = 0, stop: int | None = None) -> Tensor:
        """The neighbours at offset (dy, dx) of the output pixels of some rows: [B, D, stop - start, W]."""
        height, width = self.maps.shape[2:]
        rows = (torch.arange(-1, height + 1, device=self.maps.device) + dy).clamp(0, height - 1)
        columns = (torch.arange(-1, width + 1, device=self.maps.device) + dx).clamp(0, width - 1)
        shifted = self._lookup(2, 1)[start:stop](self.maps.index_select(2, rows), 2)
        return self._lookup(3, 1)(shifted.index_select(3, columns), 3)

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
        maps = maps * norm.weight[:, None, None] + norm.bias[:, None, None]
        return LowResKey(maps, self.size, self.coarse)

    def convolved(self, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        """Convolution with `weight` [L, D / groups, K, K] over the neighbours: [B, L, H, W]."""
        return self._lookup(2, 1)(self._lookup(3, 1)(self._response(weight, bias, groups), 3), 2)

    def convolved_rows(self, weight: Tensor, bias: Tensor, groups: int, chunk: int) -> Rows:
        """The same for rows from top to bottom, at most `chunk` at once; the bias is [B, L]."""
        response = self._response(weight, None, groups) + bias.to(self.maps.dtype)[:, :, None, None]
        rows, columns = self._lookup(2, 1), self._lookup(3, 1)
        # Few low-resolution rows are as wide as the output at a time.
        span = chunk * self.maps.shape[2] // self.size[0] + 3
        widened = Window(lambda start, stop: columns(response[:, :, start:stop], 3), response.shape[2], span, 1)
        firsts, seconds = rows.first.tolist(), rows.second.tolist()

        def rows_of(start: int, stop: int) -> Tensor:
            first, last = firsts[start], seconds[stop - 1]
            maps, part = widened(first, last + 1), rows[start:stop]
            if firsts[stop - 1] == first:  # all lie between the same two
                return torch.lerp(maps[:, :, :1], maps[:, :, -1:], part.share.to(maps.dtype)[:, None])
            return part.from_cell(first)(maps, 2)

        return rows_of

    def _response(self, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """The convolution at low resolution, with one more cell around.

        Output pixels at the border lie up to half a cell outside the outer centres.
        """
        padded = F.pad(self.maps, (weight.shape[-1] // 2 + 1,) * 4, mode="replicate")
        return F.conv2d(padded, weight, bias, groups=groups)


@dataclass(frozen=True)
class HighResKey:
    """A key [B, D, H, W] on the output grid; neighbours are `step` (rows, columns) output pixels apart.

    A step that is not whole is read by bilinear interpolation.
    """

    rows: Rows
    size: tuple[int, int]
    step: tuple[float, float]

    @staticmethod
    def of(maps: Tensor, step: tuple[float, float]) -> HighResKey:
        """A key that is there as a whole."""
        return HighResKey(stored(maps), (maps.shape[2], maps.shape[3]), step)

    def neighbor(self, dy: int, dx: int, start: int = 0, stop: int | None = None) -> Tensor:
        """The neighbours at offset (dy, dx) of the output pixels of some rows: [B, D, stop - start, W]."""
        return self._columns(self._rows(dy, abs(dx), start, self.size[0] if stop is None else stop), abs(dx), dx)

    def neighbors(self, radius: int, start: int, stop: int) -> list[Tensor]:
        """Those at all offsets up to `radius` steps, row by row."""
        offsets = range(-radius, radius + 1)
        bands = (self._rows(dy, radius, start, stop) for dy in offsets)
        return [self._columns(band, radius, dx) for band in bands for dx in offsets]

    def normalised(self, norm: nn.GroupNorm) -> HighResKey:
        """Apply a group norm."""
        return HighResKey(stored(norm(self.rows(0, self.size[0]))), self.size, self.step)

    def convolved(self, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        """Convolution with `weight` [L, D / groups, K, K] over the neighbours: [B, L, H, W]."""
        radius = weight.shape[-1] // 2
        dilation = int(self.step[0]), int(self.step[1])
        if dilation == self.step:
            down, right = radius * dilation[0], radius * dilation[1]
            padded = F.pad(self.rows(0, self.size[0]), (right, right, down, down), mode="replicate")
            return F.conv2d(padded, weight, bias, dilation=dilation, groups=groups)
        near = torch.stack(self.neighbors(radius, 0, self.size[0]), 2)
        return pointwise(near.flatten(1, 2), weight.flatten(1), bias, groups)

    def _rows(self, dy: int, radius: int, start: int, stop: int) -> Tensor:
        """Rows `dy` steps below, with room on both sides for columns `radius` steps away."""
        down, right = dy * self.step[0], math.ceil(radius * self.step[1])
        whole = math.floor(down)
        maps = clamped(self.rows, self.size[0], start + whole, stop + math.ceil(down))
        return F.pad(_shifted(maps, 2, down - whole, stop - start), (right, right, 0, 0), mode="replicate")

    def _columns(self, padded: Tensor, radius: int, dx: int) -> Tensor:
        """Columns `dx` steps to the right of each."""
        return _shifted(padded, 3, math.ceil(radius * self.step[1]) + dx * self.step[1], self.size[1])


def _shifted(maps: Tensor, dim: int, start: float, length: int) -> Tensor:
    """`length` values from `start` on, interpolated linearly if it lies between two."""
    whole = math.floor(start)
    first = maps.narrow(dim, whole, length)
    return first if start == whole else first.lerp(maps.narrow(dim, whole + 1, length), start - whole)


def pointwise(maps: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """1x1 convolution of [B, D, H, W] with `weight` [L, D / groups]: faster on the CPU than PyTorch's own.

    Weight and bias may differ between the images, [B, L, D / groups] and [B, L].
    """
    by_group = weight.to(maps.dtype).unflatten(-2, (groups, -1))
    out = (by_group @ maps.unflatten(1, (groups, -1)).flatten(3)).flatten(1, 2).unflatten(2, maps.shape[2:])
    return out if bias is None else out.add_(bias.to(maps.dtype)[..., None, None])


def gaussian_blur(maps: Tensor) -> Tensor:
    """Blur [B, D, H, W] with a 3x3 Gaussian of standard deviation 1 pixel; the border repeats its outer pixels."""
    return blur_rows(F.pad(maps, (0, 0, 1, 1), mode="replicate"))


def blur_rows(maps: Tensor) -> Tensor:
    """The same for rows [B, D, rows + 2, W], of which the first and the last are only read: [B, D, rows, W]."""
    side = math.exp(-0.5)
    centre, side = 1 / (1 + 2 * side), side / (1 + 2 * side)
    rows = (centre * maps[:, :, 1:-1]).add_(maps[:, :, :-2], alpha=side).add_(maps[:, :, 2:], alpha=side)
    padded = F.pad(rows, (1, 1, 0, 0), mode="replicate")
    return (centre * padded[..., 1:-1]).add_(padded[..., :-2], alpha=side).add_(padded[..., 2:], alpha=side)


Key = LowResKey | HighResKey
