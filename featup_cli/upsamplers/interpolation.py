"""Unguided baselines: nearest, bilinear and bicubic (Keys, 1981)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from featup_cli.upsamplers.base import Details, check_inputs


class Interpolation:
    """Interpolate between tokens, whose centres lie at half cells (`align_corners=False`)."""

    linear_in_features = True

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.details = Details()

    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Resize `lr_feats` [B, C, h, w] to [B, C, *output_size]; the picture is not looked at."""
        check_inputs(image, lr_feats, output_size)
        if self.mode == "nearest":
            return F.interpolate(lr_feats, size=output_size, mode="nearest-exact")
        return F.interpolate(lr_feats, size=output_size, mode=self.mode, align_corners=False)
