"""Overlapping patches for vision transformers: the same weights, a smaller patch stride."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.backbones.timm.library import timm

# timm gives its modules attributes (feature_info, pretrained_cfg) that nn.Module does not declare.
TimmModel = Any


class OverlappingProjection(nn.Module):
    """A patch projection whose patches begin every `stride` pixels.

    The border is reflected, so that there are exactly H / stride by W / stride patches and patch i is
    centred on cell i, as position embeddings and interpolation expect. (Half a pixel off if kernel and stride differ by
    an odd number.)
    """

    def __init__(self, projection: nn.Conv2d, stride: int) -> None:
        super().__init__()
        self.projection = projection
        self.stride = stride

    def forward(self, image: Tensor) -> Tensor:
        """Map [B, 3, H, W], sides multiples of the stride, to [B, D, H / stride, W / stride]."""
        over_y, over_x = (side - self.stride for side in self.projection.kernel_size)
        image = F.pad(image, (over_x // 2, over_x - over_x // 2, over_y // 2, over_y - over_y // 2), mode="reflect")
        return F.conv2d(image, self.projection.weight, self.projection.bias, self.stride)


def can_overlap(model: TimmModel) -> bool:
    """Whether `overlap_patches` works for the model: a transformer with one grid of tokens, one patch convolution,
    free input size, and positions relative to the picture (rotary positions that count tokens would stretch with a
    denser grid)."""
    if not (attention_heads(model) and getattr(model, "dynamic_img_size", False)):
        return False
    rope = getattr(model, "rope", None)
    relative = (
        isinstance(rope, timm.layers.RotaryEmbeddingDinoV3 | None) or getattr(rope, "ref_feat_shape", None) is not None
    )
    return relative and type(model.patch_embed) is timm.layers.PatchEmbed


def overlap_patches(model: TimmModel, stride: int) -> TimmModel:
    """A twin of `model` that shares all its weights and whose patches begin every `stride` pixels.

    timm resamples absolute position embeddings to the grid that it meets; rotary ones follow it.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, shared)
    embed = twin.patch_embed
    embed.proj = OverlappingProjection(embed.proj, stride)
    # The model computes its grid and checks its input by this; `grid_size` stays that of the position embeddings.
    embed.patch_size = (stride, stride)
    return twin


def attention_heads(model: TimmModel) -> int:
    """Heads of a transformer that keeps one grid of tokens; 0 for any other network."""
    blocks = getattr(model, "blocks", None)
    first = next(iter(blocks), None) if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    return int(getattr(getattr(first, "attn", None), "num_heads", 0))
