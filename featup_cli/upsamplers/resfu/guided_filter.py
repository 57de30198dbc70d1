"""Guided filter that aligns the query with the key."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.guidance import at_least_float32
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.key import LowResKey
from featup_cli.upsamplers.resfu.plan import Plan
from featup_cli.upsamplers.resfu.rows import Rows
from featup_cli.upsamplers.resfu.sampling import centres, lookup


class GuidedFilter(nn.Module):
    """Fit the key in every window by a linear map of the query, channel by channel (ReSFU, equations 4 to 6).

    The fit is done on every `filter_scale`-th row and column, as fast guided filters do; its coefficients are
    interpolated. Both are in float32 at least, as variances are small differences of squares.
    """

    def __init__(self, config: ReSFUConfig) -> None:
        super().__init__()
        self.radius, self.scale, self.eps = config.filter_radius, config.filter_scale, config.filter_eps
        self.side = 2 * self.radius + 1
        # Not read: windows are means, but the released state dict has their kernel.
        self.register_buffer("kernel", torch.ones(1, 1, self.side, self.side))

    def forward(self, query: Rows, key: LowResKey, plan: Plan) -> Rows:
        """Transform a query [B, D, H, W], aligned with a key: rows of [B, D, H, W], `plan.aligned` best at once."""
        size, scale = key.size[0], self.scale
        height, width = (max(1, n // scale) for n in key.size)
        step = max(1, plan.aligned // scale)
        rows, columns = (
            lookup(centres(n, cells, key.maps.device), cells)
            for n, cells in zip(key.size, (height, width), strict=True)
        )

        def make_sparse(start: int, stop: int) -> Tensor:
            """Query and key at every `scale`-th pixel: [B, 2 D, stop - start, W // scale]."""
            maps = query(scale * start, min(scale * stop, size))[:, :, ::scale, ::scale][:, :, : stop - start, :width]
            return torch.cat((at_least_float32(maps), at_least_float32(key.sparse(scale, start, stop))), 1)

        def fit(start: int, stop: int) -> Tensor:
            """Slopes and offsets: [B, 2 D, stop - start, W // scale]."""
            sparse_query, sparse_key = (maps := sparse(*self._reach(start, stop, height))).chunk(2, 1)
            products = torch.cat((maps, sparse_query * sparse_query, sparse_query * sparse_key), 1)
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
        sparse, fits = (plan.kept(make, step, span, wide=True, height=height) for make in (make_sparse, fit))
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
