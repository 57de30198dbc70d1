"""Reading a map at given rows and columns, interpolated linearly and clamped at the border."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


# Not frozen: the compiler of PyTorch 2.9 and older loses the fields of frozen records that it makes and calls.
@dataclass
class Lookup:
    """Where each output position reads along an axis of `cells`: a mix of cells `first` and `second`, each [size].

    `share` [size] is the weight of `second`.
    """

    first: Tensor
    second: Tensor
    share: Tensor
    cells: int

    def __getitem__(self, part: slice) -> Lookup:
        return Lookup(self.first[part], self.second[part], self.share[part], self.cells)

    def part(self, start: int, stop: int) -> tuple[Lookup, int, int]:
        """Some positions, and the cells that they read: the first, from which they count, and one after the last."""
        if (start, stop) == (0, len(self.first)):  # known without looking, which a compiler couldn't
            return self, 0, self.cells
        first, last = int(self.first[start]), int(self.second[stop - 1]) + 1
        part = slice(start, stop)
        return Lookup(self.first[part] - first, self.second[part] - first, self.share[part], last - first), first, last

    def __call__(self, maps: Tensor, dim: int) -> Tensor:
        """Read `maps` along dimension `dim`."""
        share = self.share.to(maps.dtype).view([-1 if d == dim else 1 for d in range(maps.ndim)])
        if dim == maps.ndim - 1:  # there on a CPU it is many times faster to gather
            read = (maps.gather(dim, cells.expand(*maps.shape[:-1], -1)) for cells in (self.first, self.second))
        else:
            read = (maps.index_select(dim, cells) for cells in (self.first, self.second))
        return torch.lerp(next(read), next(read), share)


def lookup(positions: Tensor, cells: int) -> Lookup:
    """Linear interpolation at `positions` [size] in cells, centres at 0 to `cells` - 1, clamped to them."""
    positions = positions.clamp(0, cells - 1)
    first = positions.floor()
    return Lookup(first.long(), (first + 1).clamp(max=cells - 1).long(), positions - first, cells)


def centres(size: int, cells: int, device: torch.device, *, coarse: bool = False) -> Tensor:
    """Centres of `size` output pixels in cells of the same extent: [size]; `coarse` rounds to the cell they lie in."""
    # float64, so that whole positions are whole; a centre on the edge of two cells then always goes to the second.
    positions = (torch.arange(size, device=device, dtype=torch.float64) + 0.5) * cells / size
    return positions.floor() if coarse else positions - 0.5
