"""Reading a map at given rows and columns, interpolated linearly and clamped at the border."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


# Not frozen: the compiler of PyTorch 2.9 and older loses the fields of frozen records that it makes and calls.
@dataclass
class Lookup:
    """Where each output position reads along one axis: a mix of cells `first` and `second`, each [size].

    `share` [size] is the weight of `second`.
    """

    first: Tensor
    second: Tensor
    share: Tensor

    def __getitem__(self, part: slice) -> Lookup:
        return Lookup(self.first[part], self.second[part], self.share[part])

    def from_cell(self, start: int) -> Lookup:
        """The same for maps of which only the cells from `start` on are there."""
        return Lookup(self.first - start, self.second - start, self.share)

    def __call__(self, maps: Tensor, dim: int) -> Tensor:
        """Read `maps` along dimension `dim`."""
        share = self.share.to(maps.dtype).view([-1 if d == dim else 1 for d in range(maps.ndim)])
        return torch.lerp(_select(maps, self.first, dim), _select(maps, self.second, dim), share)


def _select(maps: Tensor, index: Tensor, dim: int) -> Tensor:
    """`index_select`; along the last dimension by `gather`, which is many times faster there on a CPU."""
    if dim < maps.ndim - 1:
        return maps.index_select(dim, index)
    return maps.gather(dim, index.expand(*maps.shape[:-1], -1))


def lookup(positions: Tensor, cells: int) -> Lookup:
    """Linear interpolation at `positions` [size] in cells, centres at 0 to `cells` - 1, clamped to them."""
    positions = positions.clamp(0, cells - 1)
    first = positions.floor()
    return Lookup(first.long(), (first + 1).clamp(max=cells - 1).long(), positions - first)


def centres(size: int, cells: int, device: torch.device, *, coarse: bool = False) -> Tensor:
    """Centres of `size` output pixels in cells of the same extent: [size]; `coarse` rounds to the cell they lie in."""
    # float64, so that whole positions are whole; a centre on the edge of two cells then always goes to the second.
    positions = (torch.arange(size, device=device, dtype=torch.float64) + 0.5) * cells / size
    return positions.floor() if coarse else positions - 0.5
