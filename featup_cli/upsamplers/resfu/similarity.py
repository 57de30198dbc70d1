"""How alike a query is to each neighbour of its key."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from featup_cli.upsamplers.resfu.keys import Key, Rows, pointwise

# Without gradients the maps of a block are made in bands of rows of about this many values: what a core's cache holds,
# and on other devices what is small beside a result.
_CPU_BAND, _BAND = 2**17, 2**24


class InnerProduct(nn.Module):
    """Inner product of the query and every neighbour (ReSFU, equation 3 and table 6)."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.offsets = range(-(kernel_size // 2), kernel_size // 2 + 1)

    def forward(self, query: Tensor, key: Key) -> Tensor:
        """Scores [B, K * K, H, W] of a query [B, D, H, W]."""
        return torch.stack([(query * key.neighbor(dy, dx)).sum(1) for dy in self.offsets for dx in self.offsets], 1)


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
        key_part = key.normalised(self.norm).convolved(self.weight, self.bias, self.groups)
        query = self.norm(query)
        query_weight = self.weight.sum((2, 3))

        def differences(rows: slice) -> Tensor:
            return key_part(rows).sub_(pointwise(query[:, :, rows], query_weight, self.groups))

        if torch.is_grad_enabled():
            return self.channel_compressor(differences(slice(0, query.shape[2])))
        return self._compress_in_bands(differences, query.shape[2], query.shape[3])

    def _compress_in_bands(self, differences: Rows, height: int, width: int) -> Tensor:
        """The channel compressor, with no more of its wide maps at a time than a band of rows.

        Its group norm needs the mean and variance of whole maps before the last convolution. That convolution is
        linear, so it is done group by group in each band, and the groups are scaled and added in the end.
        """
        _, mix, _, norm, last = self.channel_compressor
        assert isinstance(mix, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        assert isinstance(last, nn.Conv2d)
        groups, outputs = norm.num_groups, last.out_channels
        weight = last.weight * norm.weight[:, None, None]
        by_group = weight.view(outputs, groups, -1).transpose(0, 1)  # [g, K * K, L / g]
        parts, sums, squares = [], [], []
        band = _CPU_BAND if self.weight.device.type == "cpu" else _BAND
        rows = max(1, band // (width * norm.num_channels))
        for start in range(0, height, rows):
            maps = differences(slice(start, min(start + rows, height))).relu_()
            maps = pointwise(maps, mix.weight.flatten(1), mix.groups, mix.bias).relu_()
            grouped = maps.unflatten(1, (groups, -1)).flatten(2).float()
            sums.append(grouped.sum(2))
            squares.append(torch.linalg.vector_norm(grouped, dim=2).square())
            parts.append(pointwise(maps, by_group.flatten(0, 1), groups))
        count = height * width * norm.num_channels // groups
        mean = torch.stack(sums).double().sum(0) / count  # [B, g]
        variance = torch.stack(squares).double().sum(0) / count - mean**2
        scale = (variance + norm.eps).rsqrt()
        constant = torch.addmv(last.get_parameter("bias"), last.weight.flatten(1), norm.bias)
        shift = constant - (mean * scale).to(weight.dtype) @ by_group.sum(2)
        scale = scale.to(weight.dtype)
        scores = [torch.einsum("bgohw,bg->bohw", part.unflatten(1, (groups, outputs)), scale) for part in parts]
        return torch.cat(scores, 2) + shift[:, :, None, None]
