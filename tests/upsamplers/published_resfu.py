"""ReSFU as its authors publish it: names and shapes of a state dict, and its formulas, written from the paper.

Everything is computed from the tensors of the state dict at whole ratios, with PyTorch's own layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """Sizes of a module: channels of features and guidance, D, L, G, K, and the guided filter's radius."""

    channels: int = 64
    guidance: int = 32
    projection: int = 32
    hidden: int = 128
    groups: int = 4
    side: int = 3
    radius: int = 4

    def state(self) -> State:
        """Random numbers, but for the guided filter's kernel of ones."""
        shapes = {"q": (self.projection, self.guidance, 1, 1), "k": (self.projection, self.channels, 1, 1)}
        norms = {"norm_x": self.channels, "norm_y": self.guidance}
        state = {"GF.kernel": torch.ones(self.projection, 1, 1, 2 * self.radius + 1)}
        for block in ("semantic_scores", "detail_scores"):
            norms |= {f"{block}.norm": self.projection, f"{block}.channel_compressor.3": self.hidden}
            shapes[f"{block}.channel_compressor.1"] = (self.hidden, self.hidden // self.groups, 1, 1)
            shapes[f"{block}.channel_compressor.4"] = (self.side**2, self.hidden, 1, 1)
            state[f"{block}.weight"] = torch.randn(
                self.hidden, self.projection // self.groups, self.side, self.side
            ).mul(0.2)
            state[f"{block}.bias"] = torch.randn(1, self.hidden, 1, 1)
        for name, channels in norms.items():
            state |= {f"{name}.weight": torch.randn(channels), f"{name}.bias": torch.randn(channels)}
        for name, shape in shapes.items():
            state |= {f"{name}.weight": torch.randn(shape).mul(0.2), f"{name}.bias": torch.randn(shape[0])}
        return state


def formula(state: State, sizes: Published, y: Tensor, x: Tensor, ratio: int) -> Tensor:
    """Features [B, C, ratio h, ratio w] of guidance y of that size and features x [B, C, h, w]."""
    normed_x, normed_y = (
        F.group_norm(maps, 32, state[f"norm_{name}.weight"], state[f"norm_{name}.bias"])
        for name, maps in (("x", x), ("y", y))
    )
    query, low_key = conv(state, "q", normed_y), conv(state, "k", normed_x)
    key = F.interpolate(low_key, scale_factor=ratio, mode="bilinear")
    aligned = guided(query, key, state["GF.kernel"].shape[-1])
    line = torch.tensor([-1.0, 0.0, 1.0]).to(x)
    gaussian = (-(line[:, None] ** 2 + line**2) / 2).exp()
    gaussian = (gaussian / gaussian.sum()).expand(sizes.projection, 1, 3, 3)
    smooth = F.conv2d(F.pad(query, (1, 1, 1, 1), mode="replicate"), gaussian, groups=sizes.projection)
    scores = similarity(state, "semantic_scores", sizes, aligned, key, ratio)
    scores = scores + similarity(state, "detail_scores", sizes, query, smooth, ratio)
    inside = neighbors(torch.ones_like(scores[:, :1]), sizes.side, ratio, "constant")[:, 0]
    weights = scores.masked_fill(inside == 0, float("-inf")).softmax(1)
    upsampled = F.interpolate(x, scale_factor=ratio, mode="bilinear")  # equation 2 at full size
    return (neighbors(upsampled, sizes.side, ratio, "replicate") * weights[:, None]).sum(2)


def conv(state: State, name: str, maps: Tensor, groups: int = 1) -> Tensor:
    return F.conv2d(maps, state[f"{name}.weight"], state[f"{name}.bias"], groups=groups)


def neighbors(maps: Tensor, side: int, ratio: int, mode: str) -> Tensor:
    """All neighbours `ratio` pixels apart: [B, C, side * side, H, W]."""
    reach = side // 2 * ratio
    height, width = maps.shape[2:]
    padded = F.pad(maps, (reach,) * 4, mode=mode)
    return torch.stack(
        [padded[:, :, i * ratio :, j * ratio :][:, :, :height, :width] for i in range(side) for j in range(side)], 2
    )


def guided(query: Tensor, key: Tensor, side: int) -> Tensor:
    """Equations 4 to 6 at half resolution."""

    def mean(maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, side, stride=1, padding=side // 2, count_include_pad=False)

    a, b = query[:, :, ::2, ::2], key[:, :, ::2, ::2]
    slope = (mean(a * b) - mean(a) * mean(b)) / (mean(a * a) - mean(a) ** 2 + 0.001)
    offset = mean(b) - slope * mean(a)
    slope, offset = (F.interpolate(mean(maps), query.shape[2:], mode="bilinear") for maps in (slope, offset))
    return slope * query + offset


def similarity(state: State, block: str, sizes: Published, query: Tensor, key: Tensor, ratio: int) -> Tensor:
    """Figure 5, with equation 11 for each output channel by itself."""
    query, key = (
        F.group_norm(maps, 8, state[f"{block}.norm.weight"], state[f"{block}.norm.bias"]) for maps in (query, key)
    )
    pairs = neighbors(key, sizes.side, ratio, "replicate") - query[:, :, None]
    weight, outputs = state[f"{block}.weight"].flatten(2), []
    read = sizes.projection // sizes.groups
    for channel in range(sizes.hidden):
        first = channel * sizes.groups // sizes.hidden * read
        outputs.append(torch.einsum("bcnhw,cn->bhw", pairs[:, first : first + read], weight[channel]))
    maps = torch.stack(outputs, 1) + state[f"{block}.bias"]
    maps = conv(state, f"{block}.channel_compressor.1", maps.relu(), sizes.groups).relu()
    norm = (state[f"{block}.channel_compressor.3.{kind}"] for kind in ("weight", "bias"))
    return conv(state, f"{block}.channel_compressor.4", F.group_norm(maps, 8, *norm))
