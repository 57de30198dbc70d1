"""Look-ups in grids at positions, with gradients that are the same in every run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from featup_kernels.resampled_conv.axis import cubic_kernel
from torch import Tensor

from featup_cli.core.shapes import Size


def _axis_taps(x: Tensor, size: int, cubic: bool) -> tuple[Tensor, Tensor]:
    """Cells [N, T] and weights [N, T] of linear (T = 2) or cubic (T = 4) interpolation at [N] in 0 to 1, clamped."""
    position = x * size - 0.5
    first = position.floor()
    share = (position - first)[:, None]
    if cubic:
        offsets = torch.arange(-1, 3, device=x.device)
        weights = cubic_kernel((share - offsets).abs(), -0.75)
    else:
        offsets = torch.arange(2, device=x.device)
        weights = torch.cat((1 - share, share), 1)
    return (first[:, None] + offsets).clamp(0, size - 1).long(), weights


def grid_taps(position: Tensor, size: Size, cubic: bool) -> tuple[Tensor, Tensor]:
    """Flat cell numbers [N, T] and weights [N, T] of a look-up in a grid of `size` at positions [N, 2] in 0 to 1."""
    rows, row_weights = _axis_taps(position[:, 0], size[0], cubic)
    cols, col_weights = _axis_taps(position[:, 1], size[1], cubic)
    cells = rows[:, :, None] * size[1] + cols[:, None]
    return cells.flatten(1), (row_weights[:, :, None] * col_weights[:, None]).flatten(1)


def gather(table: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums [N, C] of the rows `cells` [N, T] of a table [R, C].

    Reads whole rows, so with many channels it is several times faster than `grid_sample`, which reads one channel at
    a time; the gradient reaches the table only.
    """
    return F.embedding_bag(cells, table, per_sample_weights=weights.detach(), mode="sum")


def sample_grid(grid: Tensor, position: Tensor, cubic: bool = False) -> Tensor:
    """Look up [C, h, w] at positions [N, 2] in 0 to 1 (cell centres at half units): [N, C]; linear or cubic."""
    return gather(grid.flatten(1).T.contiguous(), *grid_taps(position, (grid.shape[1], grid.shape[2]), cubic))
