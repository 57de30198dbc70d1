"""Positions of the features that are pooled into a token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.multiview.views import mirror


def cell_centres(height: int, width: int, device: torch.device) -> Tensor:
    """Positions (y, x) of the cell centres of a grid, in 0 to 1: [height, width, 2]."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)


def lattice_offsets(positions: int, device: torch.device) -> Tensor:
    """Centres of a square lattice over a token's window: [positions, 2] in -1 to 1 (window edge to edge)."""
    side = math.isqrt(positions)
    return cell_centres(side, side, device).view(-1, 2) * 2 - 1


def stratified_offsets(
    count: int, positions: int, generator: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """One random offset in each cell of a square lattice over the window: [count, positions, 2] in -1 to 1.

    `device` is that of the generator; None for the CPU.
    """
    side = math.isqrt(positions)
    cells = torch.arange(side, device=device)
    lattice = torch.stack(torch.meshgrid(cells, cells, indexing="ij"), -1).view(-1, 2)
    return (lattice + torch.rand(count, positions, 2, generator=generator, device=device)) / side * 2 - 1


def half_window(kernel_size: float, stride: int, view_size: Size) -> tuple[float, float]:
    """Half sides of a token's window, in units of view height and width.

    `kernel_size` is the window's side in pixels at stride 16; it scales with `stride`, the pixels per token.
    """
    window = kernel_size * stride / 16
    return window / view_size[0] / 2, window / view_size[1] / 2


def window_positions(row: Tensor, col: Tensor, offset: Tensor, grid: Size, half: Tensor) -> Tensor:
    """Positions in a view of offsets around its tokens.

    Args:
        row, col: [T], tokens of the grid (h, w).
        offset: [T, P, 2] in -1 to 1, window edge to edge.
        half: [2], as `half_window`.
    Returns:
        [T, P, 2] in 0 to 1; windows are mirrored at the view's border, because the network sees nothing beyond it.
    """
    centre = torch.stack(((row + 0.5) / grid[0], (col + 0.5) / grid[1]), -1)
    return mirror(centre[:, None] + offset * half)


class AllWindows:
    """Every pixel of every token's window in a view, for pooling that draws nothing.

    A window has `side` x `side` pixels around the token's centre. Where the centre lies between pixels and `side` is
    odd, so do they. All of them lie on one lattice a pixel apart, so each is read from a view that was sampled once.

    Args:
        grid: (h, w) of the tokens.
        size: (height, width) of a view.
        side: pixels of a window along a side.
        device: where the attributes are.

    Attributes:
        lattice: [L, 2], positions in a view, 0 to 1.
        cells: [T, side^2], where in `lattice` the windows' pixels are; mirrored at the border.
        offset: [1, side^2, 2], the same for all tokens, -1 to 1 (window edge to edge).
    """

    def __init__(self, grid: Size, size: Size, side: int, device: torch.device) -> None:
        (row, y), (col, x) = (_axis_windows(*sides, side) for sides in zip(grid, size, strict=True))
        cells = row[:, None, :, None] * len(x) + col[None, :, None, :]
        self.cells = cells.reshape(grid[0] * grid[1], side**2).to(device)
        self.lattice = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).view(-1, 2).to(device)
        self.offset = lattice_offsets(side**2, device)[None]


def _axis_windows(tokens: int, pixels: int, side: int) -> tuple[Tensor, Tensor]:
    """Cells [tokens, side] of the windows along an axis, and the positions of the lattice there."""
    first = (torch.arange(tokens, dtype=torch.float64) + 0.5) * pixels / tokens - (side - 1) / 2
    shift = round(float(first[0]) * 2) / 2 % 1  # half a pixel where pixels' centres are taken, else none
    lattice = (torch.arange(pixels + (shift == 0)) + shift) / pixels
    places = mirror((first[:, None] + torch.arange(side)) / pixels) * pixels
    return (places - shift).round().long().clamp(0, len(lattice) - 1), lattice
