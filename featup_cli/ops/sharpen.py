"""Sharpening of low-resolution features: the place where weights below zero enter.

A backbone pools what each of its pixels sees, and positive mixing weights can only smooth further: thin things fade.
An unsharp mask on the low-resolution grid undoes part of the pooling before pixels are mixed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def make_strengths(fine: float, wide: float) -> nn.Parameter | None:
    """Learned strengths [2] for `sharpen`, or None if both are zero: then there is nothing to learn."""
    return nn.Parameter(torch.tensor((fine, wide))) if fine or wide else None


def sharpen(maps: Tensor, strengths: Tensor | None) -> Tensor:
    """Add detail of two scales to [B, C, h, w]: what one binomial blur takes away, and what two more do."""
    if strengths is None:
        return maps
    once = binomial_blur(maps)
    thrice = binomial_blur(binomial_blur(once))
    return maps + strengths[0] * (maps - once) + strengths[1] * (once - thrice)


def binomial_blur(maps: Tensor) -> Tensor:
    """Blur [B, C, H, W] with the 3x3 binomial kernel; the border repeats its outer pixels."""
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    rows = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
