"""Guided filter that aligns the query with the key."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.guidance import at_least_float32
from featup_cli.upsamplers.resfu.keys import LowResKey
from featup_cli.upsamplers.resfu.rows import Rows, Window
from featup_cli.upsamplers.resfu.sampling import centres, lookup


class GuidedFilter(nn.Module):
    """Fit the key in every window by a linear map of the query, channel by channel (ReSFU, equations 4 to 6).

    The fit is done at half resolution, as fast guided filters do; its coefficients are interpolated. Both are in
    float32 at least, as variances are small differences of squares.

    Args:
        radius: of the window at half resolution.
        eps: regularisation of the slope.
    """

    def __init__(self, radius: int, eps: float) -> None:
        super().__init__()
        self.radius = radius
        self.side = 2 * radius + 1
        self.eps = eps
        # Not read: windows are means, but the released state dict has their kernel.
        self.register_buffer("kernel", torch.ones(1, 1, self.side, self.side))

    def forward(self, query: Tensor, key: LowResKey) -> Tensor:
        """Transform the query [B, D, H, W], aligned with a key of that size: [B, D, H, W]."""
        height = max(1, query.shape[2] // 2)
        coefficients = self.box_mean(self._fit(_halves(query, key, 0, height), 0, height, height), 0, height, height)
        resized = F.interpolate(coefficients, size=query.shape[2:], mode="bilinear", align_corners=False)
        slope, offset = resized.chunk(2, 1)
        return torch.addcmul(offset, slope, query.to(slope.dtype)).to(query.dtype)

    def banded(self, query: Rows, key: LowResKey, chunk: int) -> Rows:
        """The same for rows of a query, top to bottom; `chunk` of them are best asked for at once."""
        size, step = key.size[0], max(1, chunk // 2)
        height = max(1, size // 2)
        span = step + self.side + 1

        def fit(start: int, stop: int) -> Tensor:
            reach = self._reach(start, stop, height)
            return self._fit(halves(*reach), start, stop, height)

        def transformed(start: int, stop: int) -> Tensor:
            part = rows[start:stop]
            first, last = int(part.first[0]), int(part.second[-1]) + 1
            coefficients = self.box_mean(fits(*self._reach(first, last, height)), first, last, height)
            slope, offset = part.from_cell(first)(columns(coefficients, 3), 2).chunk(2, 1)
            maps = query(start, stop)
            return torch.addcmul(offset, slope, maps.to(slope.dtype)).to(maps.dtype)

        def make_halves(start: int, stop: int) -> Tensor:
            return _halves(query(2 * start, min(2 * stop, size)), key, start, stop)

        halves, fits = Window(make_halves, height, span, step), Window(fit, height, span, step)
        rows, columns = (lookup(centres(n, max(1, n // 2), key.maps.device), max(1, n // 2)) for n in key.size)
        return transformed

    def _reach(self, start: int, stop: int, height: int) -> tuple[int, int]:
        """The rows that windows around some rows need."""
        return max(start - self.radius, 0), min(stop + self.radius, height)

    def _fit(self, halves: Tensor, start: int, stop: int, height: int) -> Tensor:
        """Slopes and offsets [B, 2 D, stop - start, W] of some rows, from the query and key of those they reach."""
        query, key = halves.chunk(2, 1)
        means = self.box_mean(torch.cat((halves, query * query, query * key), 1), start, stop, height)
        mean_query, mean_key, mean_square, mean_product = means.chunk(4, 1)
        slope = (mean_product - mean_query * mean_key) / (mean_square - mean_query * mean_query + self.eps)
        return torch.cat((slope, mean_key - slope * mean_query), 1)

    def box_mean(self, maps: Tensor, start: int, stop: int, height: int) -> Tensor:
        """Mean over the window's pixels that lie inside the map, for rows `start` to `stop` of its `height`.

        `maps` [B, C, rows, W] are the rows that they reach.
        """
        above, below = max(self.radius - start, 0), max(stop + self.radius - height, 0)
        sums = sliding_sum(F.pad(maps, (0, 0, above, below)), self.side, 2)
        sums = sliding_sum(F.pad(sums, (self.radius, self.radius)), self.side, 3)
        rows, columns = (self._counts(size, maps) for size in (height, maps.shape[3]))
        return sums / (rows[start:stop, None] * columns)

    def _counts(self, size: int, like: Tensor) -> Tensor:
        """How many of the window's rows (or columns) around each of `size` lie inside: [size]."""
        places = torch.arange(size, device=like.device)
        inside = (places + self.radius).clamp(max=size - 1) - (places - self.radius).clamp(min=0) + 1
        return inside.to(like.dtype)


def _halves(query: Tensor, key: LowResKey, start: int, stop: int) -> Tensor:
    """Query and key at every second pixel: [B, 2 D, stop - start, W // 2], of the query's rows from 2 * start on.

    In float32 at least.
    """
    key_maps = key.every_second_pixel(start, stop)
    maps = query[:, :, ::2, ::2][:, :, : stop - start, : key_maps.shape[3]]
    return torch.cat((at_least_float32(maps), at_least_float32(key_maps)), 1)


def sliding_sum(maps: Tensor, side: int, dim: int) -> Tensor:
    """Sum of every `side` (odd) values that follow each other along a dimension, which gets shorter by side - 1.

    Sums over 1, 2, 4, ... values are made from each other, and those that `side` is the sum of are added: a handful
    of additions, whatever the window.
    """
    size = maps.shape[dim] - side + 1
    sums, length = maps, 1
    total, start = sums.narrow(dim, 0, size), 1
    while start < side:
        rest = sums.shape[dim] - length
        sums = sums.narrow(dim, 0, rest) + sums.narrow(dim, length, rest)
        length *= 2
        if side & length:
            total = total + sums.narrow(dim, start, size)
            start += length
    return total
