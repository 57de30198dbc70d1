"""Reading a map at given rows and columns, interpolated linearly and clamped at the border."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lookup:
    """Where each output position reads along one axis: a mix of cells `first` and `second`, each [size].

    `share` [size] is the weight of `second`.
    """

    first: Tensor
    second: Tensor
    share: Tensor

    def __getitem__(self, part: slice) -> Lookup:
        return Lookup(self.first[part], self.second[part], self.share[part])

    def __call__(self, maps: Tensor, dim: int) -> Tensor:
        """Read `maps` along dimension `dim`."""
        shape = [1] * maps.ndim
        shape[dim] = -1
        share = self.share.to(maps.dtype).view(shape)
        return torch.lerp(maps.index_select(dim, self.first), maps.index_select(dim, self.second), share)


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
