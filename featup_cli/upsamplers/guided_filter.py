"""Guided filter baseline: features as local linear functions of colour (He et al., 2010; fast variant, 2015)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.upsamplers.base import Details, check_inputs
from featup_cli.upsamplers.guidance import resize_guidance

SCALE = 4  # cells per low-resolution pixel along a side: the grid on which the linear functions are fitted
RADIUS = 4  # of the window in cells
EPSILON = 1e-3  # squared intensity: contrasts below about 0.03 count as noise


class GuidedFilter:
    """Fit features, interpolated bilinearly, by linear functions of colour in overlapping windows, and evaluate them
    at full resolution. Nothing is learned; linear in the features."""

    linear_in_features = True

    def __init__(self) -> None:
        self.details = Details()

    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Upsample `lr_feats` [B, C, h, w] to [B, C, *output_size], guided by `image` [B, 3, H, W] in [0, 1]."""
        check_inputs(image, lr_feats, output_size)
        grid = (lr_feats.shape[2] * SCALE, lr_feats.shape[3] * SCALE)
        image = image.to(lr_feats)
        guide, feats = resize_guidance(image, grid), _resize(lr_feats, grid)
        mean_color, mean_feats = _box_mean(guide), _box_mean(feats)
        products = (guide[:, :, None] * guide[:, None]).flatten(1, 2)
        covariance = _box_mean(products).unflatten(1, (3, 3)) - mean_color[:, :, None] * mean_color[:, None]
        covariance = covariance.permute(0, 3, 4, 1, 2) + EPSILON * torch.eye(3).to(covariance)
        inverse = torch.linalg.inv(covariance.float()).to(covariance).permute(0, 3, 4, 1, 2)  # [B, 3, 3, H', W']
        cross = [_box_mean(guide[:, i, None] * feats) - mean_color[:, i, None] * mean_feats for i in range(3)]
        color = resize_guidance(image, output_size)
        out = _resize(_box_mean(mean_feats), output_size)
        offset = color - _resize(_box_mean(mean_color), output_size)
        for i in range(3):
            slope = sum((inverse[:, i, j, None] * cross[j] for j in range(3)), torch.zeros_like(feats))
            out += _resize(_box_mean(slope), output_size) * offset[:, i, None]
        return out


def _box_mean(maps: Tensor) -> Tensor:
    """Mean over the window of [B, K, H, W]; the border repeats its outer pixels."""
    padded = F.pad(maps, (RADIUS,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * RADIUS + 1, stride=1)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
