"""DySample: sampling at points that the features predict."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.baselines.config import DySampleConfig
from featup_cli.upsamplers.baselines.mixing import PixelMixer
from featup_cli.upsamplers.guidance import at_least_float32


class DySample(PixelMixer):
    """Upsampling by point sampling (Liu et al., *Learning to Upsample by Learning to Sample*, 2023).

    A linear map of the features predicts an offset for each new pixel, and features are sampled bilinearly where it
    points to ("linear + pixel shuffle", with the dynamic scope of DySample+). It starts as bilinear interpolation. It
    does not look at the picture.

    Adapted to frozen features: they are normalised before offsets are predicted, and all channels share one offset
    (the paper's groups of channels have their own), so that directions in feature space keep their meaning.
    """

    Config = DySampleConfig
    config: DySampleConfig

    def __init__(self, channels: int, config: DySampleConfig | None = None) -> None:
        super().__init__(channels, config)
        config = self.config
        self.offset = nn.Conv2d(channels, 8, 1)
        nn.init.normal_(self.offset.weight, std=1e-3)
        nn.init.zeros_(self.offset.get_parameter("bias"))
        if config.dynamic_scope:
            self.scope = nn.Conv2d(channels, 8, 1, bias=False)
            nn.init.zeros_(self.scope.weight)

    def encode(self, normalised: Tensor) -> Tensor:
        """Offsets, and the logits of their scope if it is dynamic: [B, D, h, w]."""
        if not self.config.dynamic_scope:
            return self.offset(normalised)
        return torch.cat((self.offset(normalised), self.scope(normalised)), 1)

    def predict(self, codes: Tensor, image: Tensor) -> Tensor:
        """Offsets [B, 2, 2 h, 2 w] of (y, x) from where bilinear interpolation samples, in old pixels."""
        scope = codes[:, 8:].sigmoid() if self.config.dynamic_scope else 0.5
        return F.pixel_shuffle(self.config.reach * scope * codes[:, :8], 2)

    def mix(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Sample [B, K, h, w] at the centres of new pixels moved by offsets [B, 2, 2 h, 2 w]: [B, K, 2 h, 2 w]."""
        # Half types have too few digits for places: bfloat16 counts no further than 256.
        exact = at_least_float32(maps)
        axes = []
        for axis, cells in enumerate(maps.shape[2:]):
            centres = (torch.arange(2 * cells, device=maps.device, dtype=exact.dtype) + 0.5) / 2
            centres = centres[:, None] if axis == 0 else centres
            axes.append((centres + weights[:, axis]) / cells * 2 - 1)
        grid = torch.stack(axes[::-1], -1)
        mixed = F.grid_sample(exact, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return mixed.to(maps.dtype)
