"""The guided filter (He et al., 2010): maps as local linear functions of colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def box_mean(maps: Tensor, radius: int) -> Tensor:
    """Mean over the window of [B, C, H, W] or [C, H, W]; the border repeats its outer pixels."""
    padded = F.pad(maps, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)


def local_moments(
    guide: Tensor, maps: Tensor, radius: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """What the linear functions of every window follow from.

    (Co)variances are small differences of products, and are divided by each other: in float32 at least.

    Args:
        guide: colours [B, 3, H, W].
        maps: [B, C, H, W].
        radius: of the windows.
        epsilon: squared intensity that is added to the variance of each colour.
    Returns:
        mean colour [B, 3, H, W], mean of the maps [B, C, H, W], covariance of the colours [B, H, W, 3, 3], and that of
        the maps with each colour, [B, C, H, W] thrice.
    """
    mean_guide, mean_maps = box_mean(guide, radius), box_mean(maps, radius)
    products = (guide[:, :, None] * guide[:, None]).flatten(1, 2)
    covariance = box_mean(products, radius).unflatten(1, (3, 3)) - mean_guide[:, :, None] * mean_guide[:, None]
    identity = torch.eye(3, dtype=guide.dtype, device=guide.device)
    cross = [box_mean(guide[:, i, None] * maps, radius) - mean_guide[:, i, None] * mean_maps for i in range(3)]
    return mean_guide, mean_maps, covariance.permute(0, 3, 4, 1, 2) + epsilon * identity, cross
