"""Guidance maps at the size that an upsampler needs them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.ops.taps import guidance_rows


def resize_guidance(guidance: Tensor, size: Size) -> Tensor:
    """Average [B, G, H, W] over the cells of a coarser grid, or interpolate bilinearly to a finer one: [B, G, *size].

    A side that shrinks is averaged and one that grows is interpolated, so nothing aliases. Uint8 pictures
    become floats in [0, 1].
    """
    if guidance.dtype == torch.uint8:
        return guidance_rows(guidance, size, 0, size[0])
    pooled = min(guidance.shape[2], size[0]), min(guidance.shape[3], size[1])
    if pooled != tuple(guidance.shape[2:]):
        guidance = F.adaptive_avg_pool2d(guidance, pooled)
    if pooled != size:
        guidance = F.interpolate(guidance, size=size, mode="bilinear", align_corners=False)
    return guidance


def picture_stem(channels: int) -> nn.Module:
    """Two convolutions that turn pictures [B, 3, H, W] into guidance [B, channels, H, W] (ReSFU, section 4)."""
    return nn.Sequential(
        nn.ReplicationPad2d(2),
        nn.Conv2d(3, 64, 3),
        nn.GroupNorm(32, 64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, channels, 3),
    )


def at_least_float32(maps: Tensor) -> Tensor:
    """Half types as float32, for statistics and coordinates; others as they are."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def like_features(image: Tensor, lr_feats: Tensor) -> Tensor:
    """The image on the device of the features, and in their dtype unless it is uint8."""
    return image.to(lr_feats.device) if image.dtype == torch.uint8 else image.to(lr_feats)
