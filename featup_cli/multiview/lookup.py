"""Look-ups in grids at positions, with gradients that come out the same in every run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_taps(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cells [N, 2] and weights [N, 2] of linear interpolation at coordinates [N] in 0 to 1, clamped at the border."""
    cell = x * size - 0.5
    first = cell.floor()
    t = cell - first
    cells = torch.stack((first, first + 1), 1).clamp(0, size - 1).long()
    return cells, torch.stack((1 - t, t), 1)


def cubic_taps(x: Tensor, size: int, a: float = -0.75) -> tuple[Tensor, Tensor]:
    """Cells [N, 4] and weights [N, 4] of cubic convolution (Keys, 1981) at coordinates [N] in 0 to 1, clamped."""
    cell = x * size - 0.5
    first = cell.floor()
    offsets = torch.arange(-1, 3, device=x.device)
    distance = ((cell - first)[:, None] - offsets).abs()
    near = ((a + 2) * distance - (a + 3)) * distance.square() + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    cells = (first[:, None] + offsets).clamp(0, size - 1).long()
    return cells, torch.where(distance <= 1, near, far)


def grid_taps(position: Tensor, size: tuple[int, int], cubic: bool) -> tuple[Tensor, Tensor]:
    """Flat cell numbers [N, T] and weights [N, T] of a look-up in a grid of `size` at positions [N, 2] in 0 to 1."""
    taps = cubic_taps if cubic else linear_taps
    rows, row_weights = taps(position[:, 0], size[0])
    cols, col_weights = taps(position[:, 1], size[1])
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
