"""Plain PyTorch definition of `resampled_conv`: any device and dtype, differentiable, written to be read."""

from __future__ import annotations

import torch
from featup_kernels.adaptive_conv.reference import adaptive_conv_reference
from torch import Tensor


def resampled_conv_reference(
    source: Tensor, taps: Tensor, row_cells: Tensor, row_weights: Tensor, column_cells: Tensor, column_weights: Tensor
) -> Tensor:
    """Resample the rows, then the columns, and filter; arguments as `resampled_conv`, checked there."""
    work = torch.promote_types(source.dtype, torch.float32)
    maps = source.to(work)
    for dim, cells, weights in ((2, row_cells, row_weights), (3, column_cells, column_weights)):
        shape = [-1 if d == dim else 1 for d in range(4)]
        parts = zip(cells.unbind(1), weights.to(work).unbind(1), strict=True)
        maps = sum((maps.index_select(dim, cell) * weight.view(shape) for cell, weight in parts), maps.new_zeros(()))
    return adaptive_conv_reference(maps, taps.to(work)).to(source.dtype)
