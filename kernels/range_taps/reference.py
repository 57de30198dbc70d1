"""Plain PyTorch definition of `range_taps`: any device and dtype, differentiable twice, written to be read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spatial_logits(radius: int, sigma: Tensor) -> Tensor:
    """Logarithm of a Gaussian on the window: [k * k], row-major, offsets in half windows (-1 to 1), peak at 0."""
    offsets = torch.linspace(-1, 1, 2 * radius + 1, device=sigma.device, dtype=sigma.dtype)
    if radius == 0:
        offsets = torch.zeros_like(offsets)
    square = offsets[:, None] ** 2 + offsets**2
    return (-square / (2 * sigma**2)).flatten()


def range_taps_reference(keys: Tensor, temperature: Tensor, logits: Tensor) -> Tensor:
    """Unfold the keys, compare them with the centre, and normalise; `logits` [k * k] are those of `spatial_logits`.

    Half types are summed in float32.
    """
    side = round(len(logits) ** 0.5)
    batch, width_of_key = keys.shape[:2]
    height, width = keys.shape[2] - side + 1, keys.shape[3] - side + 1
    work = torch.promote_types(keys.dtype, torch.float32)
    wide = keys.to(work)
    windows = F.unfold(wide, side).view(batch, width_of_key, side * side, height, width)
    radius = side // 2
    centre = wide[:, :, radius : radius + height, radius : radius + width]
    similarity = torch.einsum("bdthw,bdhw->bthw", windows, centre)
    scores = temperature.to(work) * similarity + logits.to(work)[:, None, None]
    return scores.softmax(1).to(keys.dtype)
