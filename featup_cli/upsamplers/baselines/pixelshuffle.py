"""PixelShuffle: sub-pixel convolution."""

from __future__ import annotations

import torch
from torch import nn

from featup_cli.upsamplers.baselines.config import PixelShuffleConfig
from featup_cli.upsamplers.baselines.convolution import ConvolutionalUpsampler


class PixelShuffle(ConvolutionalUpsampler):
    """Sub-pixel convolution (Shi et al., *Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network*, 2016).

    A 3x3 convolution makes four values of each pixel and channel, which become its four new pixels. It starts as
    nearest-neighbour interpolation: the kernels of the four are equal (ICNR; Aitken et al., 2017).

    Adapted to frozen features as `ConvolutionalUpsampler` describes.
    """

    Config = PixelShuffleConfig

    def __init__(self, channels: int, config: PixelShuffleConfig | None = None) -> None:
        super().__init__(channels, config, _make_layer)


def _make_layer(channels: int, groups: int) -> nn.Module:
    convolution = nn.Conv2d(channels, 4 * channels, 3, padding=1, padding_mode="replicate", groups=groups)
    weight, bias = convolution.weight, convolution.get_parameter("bias")
    with torch.no_grad():
        if groups == channels:
            weight.zero_()[:, :, 1, 1] = 1
            bias.zero_()
        weight.copy_(weight[::4].repeat_interleave(4, 0))
        bias.copy_(bias[::4].repeat_interleave(4, 0))
    return nn.Sequential(convolution, nn.PixelShuffle(2))
