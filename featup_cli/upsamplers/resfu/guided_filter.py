"""Guided filter that aligns the query with the key."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.guidance import at_least_float32
from featup_cli.upsamplers.resfu.key import LowResKey
from featup_cli.upsamplers.resfu.plan import Plan
from featup_cli.upsamplers.resfu.rows import Rows
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

    def forward(self, query: Rows, key: LowResKey, plan: Plan) -> Rows:
        """Transform a query [B, D, H, W], aligned with a key: rows of [B, D, H, W], `plan.aligned` best at once."""
        size, step = key.size[0], max(1, plan.aligned // 2)
        height = max(1, size // 2)
        rows, columns = (lookup(centres(n, max(1, n // 2), key.maps.device), max(1, n // 2)) for n in key.size)

        def make_halves(start: int, stop: int) -> Tensor:
            """Query and key at every second pixel: [B, 2 D, stop - start, W // 2]."""
            key_maps = key.every_second_pixel(start, stop)
            maps = query(2 * start, min(2 * stop, size))[:, :, ::2, ::2][:, :, : stop - start, : key_maps.shape[3]]
            return torch.cat((at_least_float32(maps), at_least_float32(key_maps)), 1)

        def fit(start: int, stop: int) -> Tensor:
            """Slopes and offsets: [B, 2 D, stop - start, W // 2]."""
            half_query, half_key = (maps := halves(*self._reach(start, stop, height))).chunk(2, 1)
            products = torch.cat((maps, half_query * half_query, half_query * half_key), 1)
            mean_query, mean_key, mean_square, mean_product = self.box_mean(products, start, stop, height).chunk(4, 1)
            slope = (mean_product - mean_query * mean_key) / (mean_square - mean_query * mean_query + self.eps)
            return torch.cat((slope, mean_key - slope * mean_query), 1)

        def transformed(start: int, stop: int) -> Tensor:
            part, first, last = rows.part(start, stop)
            coefficients = self.box_mean(fits(*self._reach(first, last, height)), first, last, height)
            slope, offset = part(columns(coefficients, 3), 2).chunk(2, 1)
            maps = query(start, stop)
            return torch.addcmul(offset, slope, maps.to(slope.dtype)).to(maps.dtype)

        span = step + self.side + 1
        halves, fits = (plan.kept(make, step, span, wide=True, height=height) for make in (make_halves, fit))
        return transformed

    def _reach(self, start: int, stop: int, height: int) -> tuple[int, int]:
        """The rows that windows around some rows need."""
        return max(start - self.radius, 0), min(stop + self.radius, height)

    def box_mean(self, maps: Tensor, start: int, stop: int, height: int) -> Tensor:
        """Mean over the window's pixels that lie inside the map, for rows `start` to `stop` of its `height`.

        `maps` [B, C, rows, W] are the rows that they reach.
        """
        above, below = max(self.radius - start, 0), max(stop + self.radius - height, 0)
        sums = sliding_sum(F.pad(maps, (0, 0, above, below)), self.side, 2)
        sums = sliding_sum(F.pad(sums, (self.radius, self.radius)), self.side, 3)
        sides = (F.pad(maps.new_ones(size), (self.radius, self.radius)) for size in (height, maps.shape[3]))
        rows, columns = (sliding_sum(side, self.side, 0) for side in sides)  # of the window inside the map
        return sums / (rows[start:stop, None] * columns)


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
