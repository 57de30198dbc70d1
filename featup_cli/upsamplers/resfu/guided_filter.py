"""Guided filter that aligns the query with the key."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GuidedFilter(nn.Module):
    """Fit the key in every window by a linear map of the query, channel by channel (ReSFU, equations 4 to 6).

    The fit is done at half resolution, as fast guided filters do; its coefficients are interpolated.

    Args:
        radius: of the window at half resolution.
        eps: regularisation of the slope.
    """

    def __init__(self, radius: int, eps: float) -> None:
        super().__init__()
        self.side = 2 * radius + 1
        self.eps = eps
        # Not read: windows are means, but the released state dict has their kernel.
        self.register_buffer("kernel", torch.ones(1, 1, self.side, self.side))

    def forward(self, query: Tensor, half_key: Tensor) -> Tensor:
        """Transform the query.

        Args:
            query: [B, D, H, W].
            half_key: the key at every second pixel, [B, D, H // 2, W // 2] (at least 1).
        Returns:
            [B, D, H, W].
        """
        height, width = half_key.shape[2:]
        half = query[:, :, ::2, ::2][:, :, :height, :width]
        mean_query, mean_key = self.box_mean(half), self.box_mean(half_key)
        variance = self.box_mean(half * half) - mean_query * mean_query
        slope = (self.box_mean(half * half_key) - mean_query * mean_key) / (variance + self.eps)
        offset = mean_key - slope * mean_query
        size = query.shape[2:]
        scaled = F.interpolate(self.box_mean(slope), size=size, mode="bilinear", align_corners=False) * query
        return scaled.add_(F.interpolate(self.box_mean(offset), size=size, mode="bilinear", align_corners=False))

    def box_mean(self, maps: Tensor) -> Tensor:
        """Mean over the window's pixels that lie inside the map."""
        height, width = maps.shape[2:]
        ones = maps.new_ones(1, 1, height, width)
        return self._box_sum(maps) / self._box_sum(ones)

    def _box_sum(self, maps: Tensor) -> Tensor:
        return window_sum(window_sum(maps, self.side, 2), self.side, 3)


def window_sum(maps: Tensor, side: int, dim: int) -> Tensor:
    """Sum of the `side` (odd) values around each along a dimension, with zeros outside.

    Sums over 1, 2, 4, ... values are made from each other, and those that `side` is the sum of are added: a handful
    of additions, whatever the window.
    """
    size = maps.shape[dim]
    border = list(maps.shape)
    border[dim] = side // 2
    zeros = maps.new_zeros(border)
    sums, length = torch.cat((zeros, maps, zeros), dim), 1
    # `side` is odd, so that the values themselves are part of the total.
    total, start = sums.narrow(dim, 0, size), 1
    while start < side:
        rest = sums.shape[dim] - length
        sums = sums.narrow(dim, 0, rest) + sums.narrow(dim, length, rest)
        length *= 2
        if side & length:
            total = total + sums.narrow(dim, start, size)
            start += length
    return total
