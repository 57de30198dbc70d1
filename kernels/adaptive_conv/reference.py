"""Plain PyTorch definition of `adaptive_conv`: any device and dtype, differentiable twice, written to be read."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def adaptive_conv_reference(source: Tensor, taps: Tensor) -> Tensor:
    """Unfold the windows and contract them with the taps; arguments as `adaptive_conv`, checked there.

    Half types are summed in float32.
    """
    batch, channels = source.shape[:2]
    height, width = taps.shape[2:]
    work = torch.promote_types(source.dtype, torch.float32)
    windows = F.unfold(source.to(work), math.isqrt(taps.shape[1]))
    windows = windows.view(batch, channels, taps.shape[1], height, width)
    return torch.einsum("bcthw,bthw->bchw", windows, taps.to(work)).to(source.dtype)
