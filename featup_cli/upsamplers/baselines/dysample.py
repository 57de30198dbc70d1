"""DySample: sampling at points that the features predict."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import UsageError
from featup_cli.core.shapes import Size
from featup_cli.upsamplers.baselines.config import DySampleConfig
from featup_cli.upsamplers.baselines.doubling import doublings, resize
from featup_cli.upsamplers.baselines.mixing import PixelMixer
from featup_cli.upsamplers.guidance import at_least_float32


class DySample(PixelMixer):
    """Upsampling by point sampling (Liu et al., *Learning to Upsample by Learning to Sample*, 2023).

    A linear map of the features predicts an offset for each new pixel, and features are sampled bilinearly where it
    points to ("linear + pixel shuffle", with the dynamic scope of DySample+). It starts as bilinear interpolation. It
    does not look at the picture.

    Adapted to frozen features: they are normalised before offsets are predicted, and all channels share one offset
    (the paper's groups of channels have their own), so that directions in feature space keep their meaning.

    With `style=pl` it is the paper's S+: features are shuffled to the new grid, with a quarter of the channels, before
    offsets are predicted, without a norm, and each of the `groups` of channels has its own.
    """

    Config = DySampleConfig
    config: DySampleConfig

    def __init__(self, channels: int, config: DySampleConfig | None = None) -> None:
        super().__init__(channels, config)
        config, seen, predicted = self.config, channels, 8
        if config.style == "pl":
            if channels % 4 or channels % config.groups:
                raise UsageError(f"style=pl: {channels} channels are no multiple of 4 and of groups={config.groups}")
            seen, predicted = channels // 4, 2 * config.groups
            del self.norm
            self.shares_weights = False
        self.offset = nn.Conv2d(seen, predicted, 1)
        nn.init.normal_(self.offset.weight, std=1e-3)
        nn.init.zeros_(self.offset.get_parameter("bias"))
        if config.dynamic_scope:
            self.scope = nn.Conv2d(seen, predicted, 1, bias=False)
            nn.init.zeros_(self.scope.weight)

    def upsample(self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None) -> Tensor:
        """Predict offsets and sample, doubling by doubling; `values` are not looked at with `style=pl`."""
        if self.config.style == "lp":
            return super().upsample(image, lr_feats, size, values)
        maps, groups = lr_feats, self.config.groups
        for _ in range(doublings((lr_feats.shape[2], lr_feats.shape[3]), size)):
            # Groups have offsets of their own, as items of a batch have.
            offsets = self.predict(self.encode(F.pixel_shuffle(maps.to(self.offset.weight.dtype), 2)), image)
            offsets = offsets.unflatten(1, (2, groups)).transpose(1, 2).flatten(0, 1)
            mixed = self.mix(maps.unflatten(1, (groups, -1)).flatten(0, 1), offsets)
            maps = mixed.view(len(maps), -1, *mixed.shape[2:])
        return resize(maps, size)

    def encode(self, normalised: Tensor) -> Tensor:
        """Offsets, and the logits of their scope if it is dynamic: [B, D, h, w]."""
        if not self.config.dynamic_scope:
            return self.offset(normalised)
        return torch.cat((self.offset(normalised), self.scope(normalised)), 1)

    def predict(self, codes: Tensor, image: Tensor) -> Tensor:
        """Offsets [B, 2 G, 2 h, 2 w], y of G groups and x, from where bilinear interpolation samples, in old pixels."""
        offsets, logits = codes.chunk(2, 1) if self.config.dynamic_scope else (codes, None)
        offsets = self.config.reach * (0.5 if logits is None else logits.sigmoid()) * offsets
        return offsets if self.config.style == "pl" else F.pixel_shuffle(offsets, 2)

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
