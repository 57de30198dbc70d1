"""Plain PyTorch definition of `neighbor_mix`: any device and dtype, differentiable at will, written to be read."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def axis_positions(size: int, lr_size: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Centres of `size` output pixels along an axis, in low-resolution pixels: [size]."""
    return (torch.arange(size, device=device, dtype=dtype) + 0.5) * (lr_size / size) - 0.5


def read_linearly(maps: Tensor, dim: int, positions: Tensor) -> Tensor:
    """`maps` at positions [n] along a dimension, interpolated linearly and clamped to the outer pixel centres."""
    last = maps.shape[dim] - 1
    positions = positions.clamp(0, last)
    first = positions.floor().long()
    share = (positions - first).view([-1 if d == dim else 1 for d in range(maps.ndim)])
    return maps.index_select(dim, first) * (1 - share) + maps.index_select(dim, (first + 1).clamp(max=last)) * share


def neighbor_mix_reference(lr_source: Tensor, taps: Tensor) -> Tensor:
    """Sample every neighbour of every output pixel bilinearly and sum; arguments as `neighbor_mix`, checked there.

    Half types are summed in float32.
    """
    batch, channels, lr_height, lr_width = lr_source.shape
    side = math.isqrt(taps.shape[1])
    height, width = taps.shape[2:]
    work = torch.promote_types(lr_source.dtype, torch.float32)
    source = lr_source.to(work)
    rows = axis_positions(height, lr_height, device=source.device, dtype=work)
    cols = axis_positions(width, lr_width, device=source.device, dtype=work)
    out = source.new_zeros(batch, channels, height, width)
    for t in range(side * side):
        dy, dx = t // side - side // 2, t % side - side // 2
        neighbor = read_linearly(read_linearly(source, 2, rows + dy), 3, cols + dx)
        out = out + taps[:, t, None].to(work) * neighbor
    return out.to(lr_source.dtype)
