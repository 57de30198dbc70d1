"""A norm over channels in front of an upsampler, as in the normed variants of the official FeatUp release."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.errors import ShapeError
from featup_cli.upsamplers.base import Details


class NormedUpsampler(nn.Module):
    """Normalise the features of every low-resolution pixel, then upsample.

    Args:
        channels: of the features.
        upsampler: takes (image, lr_feats, output_size).
    """

    def __init__(self, channels: int, upsampler: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.upsampler = upsampler
        self.details = Details()

    def forward(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Upsample the normalised features; arguments and result as the upsampler's own.

        Raises:
            ShapeError: a tensor of another shape.
        """
        channels = self.norm.normalized_shape[0]
        if lr_feats.ndim != 4 or lr_feats.shape[1] != channels:
            raise ShapeError(f"lr_feats must be [B, {channels}, h, w], not {list(lr_feats.shape)}")
        norm = self.norm
        normed = F.layer_norm(lr_feats.movedim(1, 3), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return self.upsampler(image, normed.movedim(3, 1), output_size)
