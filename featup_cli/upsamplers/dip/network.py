"""The hourglass of the deep image prior."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.dip.config import DIPConfig


class Hourglass(nn.Module):
    """Encoder and decoder with thin skip connections (Ulyanov et al., 2018); a 1x1 convolution ends it.

    Args:
        config: widths and levels.
        size: (height, width) of its input and output, which bounds the levels.
        channels: of the output.
    """

    def __init__(self, config: DIPConfig, size: Size, channels: int) -> None:
        super().__init__()
        levels = max(1, min(config.levels, int(math.log2(min(size))) - 1))
        width, skip = config.width, config.skip_width
        widths = [config.noise_channels] + [width] * levels
        self.down = nn.ModuleList(
            nn.Sequential(_conv(before, width, stride=2), _conv(width, width)) for before in widths[:-1]
        )
        self.skip = nn.ModuleList(_conv(before, skip, kernel=1) for before in widths[:-1])
        self.up = nn.ModuleList(
            nn.Sequential(_conv(width + skip, width), _conv(width, width, kernel=1)) for _ in range(levels)
        )
        self.head = nn.Conv2d(width, channels, 1)

    def features(self, noise: Tensor) -> Tensor:
        """What `head` sees: [1, noise_channels, H, W] to [1, width, H, W]."""
        skipped = []
        x = noise
        for down, skip in zip(self.down, self.skip, strict=True):
            skipped.append(skip(x))
            x = down(x)
        for up, side in zip(self.up, reversed(skipped), strict=True):
            x = F.interpolate(x, size=side.shape[2:], mode="bilinear", align_corners=False)
            x = up(torch.cat((x, side), 1))
        return x

    def forward(self, noise: Tensor) -> Tensor:
        """[1, noise_channels, H, W] to [1, channels, H, W]."""
        return self.head(self.features(noise))


def _conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    # Each channel is normalised over the picture, which is the batch norm of a single picture.
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding, padding_mode="reflect" if padding else "zeros"),
        nn.GroupNorm(channels_out, channels_out),
        nn.LeakyReLU(0.2),
    )
