"""Deconvolution: transposed convolution."""

from __future__ import annotations

import torch
from torch import nn

from featup_cli.upsamplers.baselines.config import DeconvConfig
from featup_cli.upsamplers.baselines.convolution import ConvolutionalUpsampler


class Deconv(ConvolutionalUpsampler):
    """Transposed convolution (Noh et al., *Learning Deconvolution Network for Semantic Segmentation*, 2015; Dumoulin
    and Visin, *A Guide to Convolution Arithmetic for Deep Learning*, 2016).

    Each pixel is spread over 4x4 new ones by a learned kernel. It starts as bilinear interpolation.

    Adapted to frozen features as `ConvolutionalUpsampler` describes; the border repeats its pixels.
    """

    Config = DeconvConfig

    def __init__(self, channels: int, config: DeconvConfig | None = None) -> None:
        super().__init__(channels, config, _make_layer)


def _make_layer(channels: int, groups: int) -> nn.Module:
    # Of the repeated border only what it adds to the inside is kept: a padding of 3 new pixels is cut off.
    convolution = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=3, groups=groups)
    if groups == channels:
        axis = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            convolution.weight.copy_(axis[:, None] * axis)
            nn.init.zeros_(convolution.get_parameter("bias"))
    return nn.Sequential(nn.ReplicationPad2d(1), convolution)
