"""Plain PyTorch definition of `neighbor_mix`: any device and dtype, differentiable twice, written to be read."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def axis_positions(size: int, lr_size: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Centres of `size` output pixels along an axis, in low-resolution pixels: [size]."""
    return (torch.arange(size, device=device, dtype=dtype) + 0.5) * (lr_size / size) - 0.5


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
        # In grid_sample's units -1 and 1 are the outer pixel edges, and "border" clamps to the outer pixel centres.
        y = (rows + dy + 0.5) / lr_height * 2 - 1
        x = (cols + dx + 0.5) / lr_width * 2 - 1
        grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1)
        neighbor = F.grid_sample(
            source, grid.expand(batch, -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
        )
        out = out + taps[:, t, None].to(work) * neighbor
    return out.to(lr_source.dtype)
