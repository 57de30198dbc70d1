"""Fine neighbour selection: the weights of neighbours one low-resolution pixel apart, and their mix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from featup_kernels import neighbor_mix
from torch import Tensor

from featup_cli.upsamplers.resfu.key import LowResKey
from featup_cli.upsamplers.resfu.plan import Plan
from featup_cli.upsamplers.resfu.rows import Rows, gathered
from featup_cli.upsamplers.resfu.sampling import centres, lookup

_OUTSIDE = -1e7


class NeighborSelection:
    """Makes rows of the result, top to bottom and none twice.

    Args:
        scores: rows of [B, K * K, H, W], which are added.
        values: [B, C, h, w], of which neighbours are mixed.
        plan: of the rows.
    """

    def __init__(self, scores: Sequence[Rows], values: Tensor, plan: Plan) -> None:
        self.scores, self.values, self.plan = [*scores], values, plan
        self.radius = plan.config.kernel_size // 2

    def __call__(self, top: int, bottom: int) -> Tensor:
        """Rows of the result: [B, C, bottom - top, W]."""
        with torch.autocast(self.values.device.type, enabled=False):
            weights = gathered(self.weights, top, bottom, self.plan.rows)
        if bottom == self.plan.size[0]:
            self.scores.clear()  # and with them the maps that they are made of
        weights = weights.to(self.values.dtype)
        if self.plan.config.neighbors == "coarse":
            return self._mix_coarse(weights, top, bottom)
        return neighbor_mix(self.values if self.plan.keep else self._rows_around(top, bottom), weights)

    def weights(self, start: int, stop: int) -> Tensor:
        """Softmax of the scores, [B, K * K, stop - start, W], without neighbours outside the picture."""
        scores = torch.stack([rows(start, stop) for rows in self.scores])
        total = scores.sum(0, dtype=torch.promote_types(scores.dtype, torch.float32))
        return total.masked_fill(~self.inside(start, stop, total.device), _OUTSIDE).softmax(1)

    def inside(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Which neighbours lie inside the picture: bool [K * K, stop - start, W]."""
        offsets = torch.arange(-self.radius, self.radius + 1, device=device)[:, None]
        axes = []
        for pixels, cells in zip(self.plan.size, self.plan.lr_size, strict=True):
            positions = centres(pixels, cells, device) + offsets
            axes.append((positions >= -0.5) & (positions < cells - 0.5))
        return (axes[0][:, None, start:stop, None] & axes[1][None, :, None, :]).flatten(0, 1)

    def _rows_around(self, top: int, bottom: int) -> Tensor:
        """For every output row the K low-resolution rows of its own neighbours, [B, C, (bottom - top) * K, w].

        Between them nothing is left to interpolate, wherever in the picture the row lies.
        """
        values, cells = self.values, self.values.shape[2]
        offsets = torch.arange(-self.radius, self.radius + 1, device=values.device)
        positions = centres(self.plan.size[0], cells, values.device)[top:bottom, None] + offsets
        return lookup(positions.flatten(), cells)(values, 2)

    def _mix_coarse(self, weights: Tensor, top: int, bottom: int) -> Tensor:
        """Mix neighbours of the low-resolution pixel that each output pixel lies in (table 7, without FNS)."""
        near = LowResKey(self.values, self.plan.size, coarse=True).neighbors(self.radius, top, bottom)
        out = weights[:, :1] * next(near)
        for t, neighbor in enumerate(near, 1):
            out = out + weights[:, t, None] * neighbor
        return out
