"""How alike a query is to each neighbour of its key."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from featup_cli.upsamplers.resfu.keys import Key, LowResKey, pointwise
from featup_cli.upsamplers.resfu.rows import Rows
from featup_cli.upsamplers.resfu.sampling import centres
from featup_cli.upsamplers.resfu.statistics import Affine, GroupMoments

_OUTSIDE = -1e7


class InnerProduct(nn.Module):
    """Inner product of the query and every neighbour (ReSFU, equation 3 and table 6)."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.offsets = range(-(kernel_size // 2), kernel_size // 2 + 1)

    def forward(self, query: Tensor, key: Key, start: int = 0, stop: int | None = None) -> Tensor:
        """Scores [B, K * K, rows, W] of some rows `start` to `stop` of a query, [B, D, rows, W]."""
        near = (key.neighbor(dy, dx, start, stop) for dy in self.offsets for dx in self.offsets)
        return torch.stack([(query * neighbor).sum(1) for neighbor in near], 1)


class PCDCBlock(nn.Module):
    """Paired central difference convolution and channel compressor (ReSFU, section 4.2, equation 12).

    Names of parameters are those of the released module.

    Args:
        kernel_size: K.
        projection: D, channels of query and key.
        hidden: L, channels of the compared maps.
        groups: G.
    """

    def __init__(self, kernel_size: int, projection: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.norm = nn.GroupNorm(math.gcd(8, projection), projection)
        self.weight = nn.Parameter(torch.empty(hidden, projection // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(hidden))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as PyTorch's own convolutions
        self.channel_compressor = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1, groups=groups),
            nn.ReLU(inplace=True),
            nn.GroupNorm(8, hidden),
            nn.Conv2d(hidden, kernel_size**2, 1),
        )

    def forward(self, query: Tensor, key: Key) -> Tensor:
        """Scores [B, K * K, H, W] of a query [B, D, H, W]."""
        near = key.normalised(self.norm).convolved(self.weight, self.bias, self.groups)
        differences = near.sub_(pointwise(self.norm(query), self.weight.sum((2, 3)), None, self.groups))
        scores: Tensor = self.channel_compressor(differences)
        return scores


class BandedPCDC:
    """A `PCDCBlock` on rows from top to bottom, at most `chunk` at once.

    Group norms are folded into the convolutions after them. The one of the channel compressor needs a pass of its own:
    `count` all rows, then `seal`, then call.

    Args:
        block: with the parameters.
        query: rows [B, D, rows, W].
        query_norm: the block's norm for the query.
        key: a `LowResKey` that is normalised already, or a `HighResKey` that is not.
        key_norm: the block's norm for the latter.
        chunk: most rows at once.
    """

    def __init__(
        self, block: PCDCBlock, query: Rows, query_norm: Affine, key: Key, key_norm: Affine | None, chunk: int
    ) -> None:
        mix, norm, last = (block.channel_compressor[i] for i in (1, 3, 4))
        assert isinstance(mix, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        assert isinstance(last, nn.Conv2d)
        self.mix, self.last = mix, last
        self.moments = GroupMoments(norm)
        self.scores: tuple[Tensor, Tensor] | None = None  # weight and bias
        groups = block.groups
        weight, bias = query_norm.then(-block.weight.sum((2, 3)), block.bias, groups)
        if isinstance(key, LowResKey):
            near = key.convolved_rows(block.weight, bias, groups, chunk)
            self.differences: Rows = lambda start, stop: near(start, stop).add_(
                pointwise(query(start, stop), weight, None, groups)
            )
            return
        assert key_norm is not None
        taps = block.weight.flatten(2)
        key_weight, key_bias = key_norm.repeated(taps.shape[2]).then(taps.flatten(1), None, groups)
        bias = bias + key_bias
        # The query is one more neighbour: its pixel itself.
        both = torch.cat((key_weight.unflatten(2, taps.shape[1:]), weight[..., None]), 3).flatten(2)
        radius = block.weight.shape[-1] // 2
        self.differences = lambda start, stop: pointwise(
            torch.stack((*key.neighbors(radius, start, stop), query(start, stop)), 2).flatten(1, 2), both, bias, groups
        )

    def count(self, start: int, stop: int) -> None:
        """Take rows into the statistics."""
        self.moments.add(self._hidden(start, stop))

    def seal(self) -> None:
        """All rows are counted."""
        self.scores = self.moments.affine().then(self.last.weight.flatten(1), self.last.bias)

    def __call__(self, start: int, stop: int) -> Tensor:
        """Scores [B, K * K, stop - start, W]."""
        assert self.scores is not None
        weight, bias = self.scores
        return pointwise(self._hidden(start, stop), weight, bias)

    def _hidden(self, start: int, stop: int) -> Tensor:
        maps = self.differences(start, stop).relu_()
        return pointwise(maps, self.mix.weight.flatten(1), self.mix.bias, self.mix.groups).relu_()


def weights_of(
    scores: list[Tensor], kernel_size: int, lr_size: tuple[int, int], output_size: tuple[int, int], start: int = 0
) -> Tensor:
    """Softmax of the sum of scores [B, K * K, rows, W], without neighbours outside the picture.

    Args:
        scores: of rows from `start` on.
        kernel_size: K.
        lr_size, output_size: (height, width) of the grids.
    """
    total = torch.stack(scores).sum(0, dtype=torch.promote_types(scores[0].dtype, torch.float32))
    inside = neighbors_inside(kernel_size, lr_size, output_size, total.device, start, start + total.shape[2])
    return total.masked_fill(~inside, _OUTSIDE).softmax(1)


def neighbors_inside(
    kernel_size: int,
    lr_size: tuple[int, int],
    output_size: tuple[int, int],
    device: torch.device,
    start: int = 0,
    stop: int | None = None,
) -> Tensor:
    """Which neighbours, one low-resolution pixel apart, lie inside the picture: bool [K * K, rows, W], rows of H."""
    offsets = torch.arange(kernel_size, device=device) - kernel_size // 2
    axes = []
    for size, cells in zip(output_size, lr_size, strict=True):
        positions = centres(size, cells, device) + offsets[:, None]
        axes.append((positions >= -0.5) & (positions < cells - 0.5))
    rows, columns = axes[0][:, start:stop], axes[1]
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)
