"""Resize-convolution: interpolation, then a convolution."""

from __future__ import annotations

import torch
from torch import nn

from featup_cli.upsamplers.baselines.config import ResizeConvConfig
from featup_cli.upsamplers.baselines.convolution import ConvolutionalUpsampler


class ResizeConv(ConvolutionalUpsampler):
    """Resize-convolution (Odena et al., *Deconvolution and Checkerboard Artifacts*, 2016).

    Bilinear interpolation to twice the size, then a 3x3 convolution, which starts as the identity.

    Adapted to frozen features as `ConvolutionalUpsampler` describes.
    """

    Config = ResizeConvConfig

    def __init__(self, channels: int, config: ResizeConvConfig | None = None) -> None:
        super().__init__(channels, config, _make_layer)


def _make_layer(channels: int, groups: int) -> nn.Module:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate", groups=groups)
    if groups == channels:
        with torch.no_grad():
            convolution.weight.zero_()[:, :, 1, 1] = 1
            nn.init.zeros_(convolution.get_parameter("bias"))
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), convolution)
