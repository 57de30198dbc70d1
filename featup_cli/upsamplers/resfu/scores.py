"""How alike a query is to each neighbour of its key: the semantic and the detail score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.key import HighResKey, Key, LowResKey
from featup_cli.upsamplers.resfu.plan import Keep, Plan
from featup_cli.upsamplers.resfu.rows import Rows
from featup_cli.upsamplers.resfu.statistics import Affine, Map, norms_of, pointwise


class InnerProduct(nn.Module):
    """Inner product of the query and every neighbour (ReSFU, equation 3 and table 6)."""

    def forward(self, query: Map, key: Key, plan: Plan) -> Rows:
        """Scores: rows of [B, K * K, H, W]."""

        def scores(start: int, stop: int) -> Tensor:
            maps, near = query.rows(start, stop), key.neighbors(plan.config.kernel_size // 2, start, stop)
            return torch.stack([(maps * neighbor).sum(1) for neighbor in near], 1)

        return scores


class PCDCBlock(nn.Module):
    """Paired central difference convolution and channel compressor (ReSFU, section 4.2, equation 12).

    Names of parameters are those of the released module. Group norms are folded into the convolutions after them.
    The last convolution has one group: the paper's 4 can't give K * K channels, which is odd.
    """

    maps = 1  # of D channels that the first convolution reads

    def __init__(self, config: ReSFUConfig) -> None:
        super().__init__()
        projection, side, width = config.projection, config.kernel_size, config.compressor_width
        self.groups = config.groups
        self.norm = nn.GroupNorm(math.gcd(8, projection), projection)
        self.weight = nn.Parameter(torch.empty(config.hidden, self.maps * projection // self.groups, side, side))
        self.bias = nn.Parameter(torch.zeros(config.hidden))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as PyTorch's own convolutions
        self.channel_compressor = nn.Sequential(
            nn.ReLU(inplace=True) if config.relu_first else nn.Identity(),
            nn.Conv2d(config.hidden, width, 1, groups=self.groups),
            nn.ReLU(inplace=True),
            nn.GroupNorm(8, width),
            nn.Conv2d(width, side**2, 1),
        )

    def forward(self, query: Map, key: Key, plan: Plan) -> Rows:
        """Compared maps, up to the compressor's norm, which needs all of them: rows of [B, its width, H, W]."""
        first, mix = self.channel_compressor[0], cast(nn.Conv2d, self.channel_compressor[1])
        compare = self._compare(query, key, plan)

        def hidden(start: int, stop: int) -> Tensor:
            return pointwise(first(compare(start, stop)), mix.weight.flatten(1), mix.bias, self.groups, relu=True)

        return plan.kept(hidden, 0, wide=True)

    def _compare(self, query: Map, key: Key, plan: Plan) -> Rows:
        """The convolution of the neighbours' differences from the query: rows of [B, L, H, W]."""
        groups = self.groups
        weight, bias = query.norm(self.norm).then(-self.weight.sum((2, 3)), self.bias, groups)
        if isinstance(key, LowResKey):
            near = key.normalised(self.norm).convolved(self.weight, bias, groups, plan)
            return lambda start, stop: near(start, stop).add_(pointwise(query.rows(start, stop), weight, None, groups))
        norm = key.map.norm(self.norm)
        if plan.keep == Keep.ALL and all(step.is_integer() for step in key.step):
            # For gradients it keeps the key alone, and no copy of each neighbour. In bands those copies are faster.
            return lambda start, stop: key.dilated(norm, self.weight, groups).add_(
                pointwise(query.rows(start, stop), weight, bias, groups)
            )
        key_weight, key_bias = norm.then(self.weight, None, groups)
        key_weight, bias = key_weight.unflatten(2, self.weight.shape[1:]), bias + key_bias
        # The query is one more neighbour: its pixel itself.
        both = torch.cat((key_weight.flatten(3), weight[..., None]), 3).flatten(2)

        def compared(start: int, stop: int) -> Tensor:
            near = key.neighbors(plan.config.kernel_size // 2, start, stop)
            return pointwise(torch.stack((*near, query.rows(start, stop)), 2).flatten(1, 2), both, bias, groups)

        return compared


class ConcatBlock(PCDCBlock):
    """A channel compressor after a convolution of query and key, concatenated (ReSFU, table 6 b).

    Its groups are those of a convolution of the concatenation: with an even number of them, none reads both.
    """

    maps = 2

    def _compare(self, query: Map, key: Key, plan: Plan) -> Rows:
        """The convolution of the neighbours of both: rows of [B, L, H, W]."""
        norms = [query.norm(self.norm)]
        if isinstance(key, LowResKey):
            key = key.normalised(self.norm)
            norms += [Affine(torch.ones_like(norms[0].scale), torch.zeros_like(norms[0].shift))]
        else:
            norms += [key.map.norm(self.norm)]
        norm = Affine(*(torch.cat(parts, 1) for parts in zip(*((n.scale, n.shift) for n in norms), strict=True)))
        weight, bias = norm.then(self.weight, self.bias, self.groups)
        keys = (HighResKey(query, plan.size, plan.step), key)

        def compared(start: int, stop: int) -> Tensor:
            near = [torch.stack([*k.neighbors(plan.config.kernel_size // 2, start, stop)], 2) for k in keys]
            return pointwise(torch.cat(near, 1).flatten(1, 2), weight, bias, self.groups)

        return compared


def compressed(blocks: Sequence[PCDCBlock], compared: Sequence[Rows], plan: Plan) -> list[Rows]:
    """The end of the channel compressors: scores, rows of [B, K * K, H, W], of the compared maps of each block."""
    norms = [cast(nn.GroupNorm, block.channel_compressor[3]) for block in blocks]
    scores: list[Rows] = []
    affines = norms_of([*zip(compared, norms, strict=True)], plan.size[0], plan.rows)
    for block, rows, affine in zip(blocks, compared, affines, strict=True):
        last = cast(nn.Conv2d, block.channel_compressor[4])
        scores.append(partial(_compress, rows, *affine.then(last.weight, last.bias)))
    return scores


def _compress(rows: Rows, weight: Tensor, bias: Tensor, start: int, stop: int) -> Tensor:
    return pointwise(rows(start, stop), weight, bias)
