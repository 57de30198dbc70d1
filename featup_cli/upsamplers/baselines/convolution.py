"""Baselines that convolve: a C x C convolution in two parts, around features that keep their scale."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.baselines.config import DeconvConfig, PixelShuffleConfig, ResizeConvConfig
from featup_cli.upsamplers.baselines.doubling import DoublingUpsampler, doublings, resize
from featup_cli.upsamplers.guidance import at_least_float32

_LEAST_VARIANCE = 1e-12


class ConvolutionalUpsampler(DoublingUpsampler):
    """Doubles the grid by a convolution that mixes channels too.

    With hundreds of channels a full convolution would hold millions of weights, and at random it would destroy the
    features. So it is done in two parts: one layer for each channel on its own, which starts as interpolation, and a
    full layer between two 1x1 convolutions, with a GELU, that starts at zero. Each channel is seen relative to its
    mean in the picture, in units of its standard deviation there: features of any scale train alike, and constants
    are kept.

    With `full=True` it is the one plain convolution of the papers, C x C, which starts as interpolation of each channel
    by itself.
    """

    shares_weights = False

    def __init__(self, channels: int, config: Any = None) -> None:
        super().__init__(channels, config)
        self.factor = self.config.ratio
        if self.config.full:
            self.layer = self.make_full(channels, self.factor)
            return
        self.depthwise = self.make_layer(channels, channels)
        self.reduce = nn.Conv2d(channels, self.config.hidden, 1)
        self.full = self.make_layer(self.config.hidden, 1)
        self.expand = nn.Conv2d(self.config.hidden, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.get_parameter("bias"))

    @staticmethod
    @abstractmethod
    def make_layer(channels: int, groups: int) -> nn.Module:
        """A layer [B, channels, h, w] to [B, channels, 2 h, 2 w]; with a group a channel it starts as interpolation."""

    @staticmethod
    @abstractmethod
    def make_full(channels: int, ratio: int) -> nn.Module:
        """The printed layer, [B, channels, h, w] to [B, channels, ratio h, ratio w], started as interpolation."""

    def upsample(self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None) -> Tensor:
        """Convolve, step by step; neither picture nor `values` are looked at."""
        steps = doublings((lr_feats.shape[2], lr_feats.shape[3]), size, self.factor)
        if self.config.full:
            maps = lr_feats.to(next(self.parameters()).dtype)
            for _ in range(steps):
                maps = self.layer(maps)
            return resize(maps, size).to(lr_feats.dtype)
        exact = at_least_float32(lr_feats)
        variance, mean = torch.var_mean(exact, (2, 3), correction=0, keepdim=True)
        spread = (variance + _LEAST_VARIANCE).sqrt()
        maps = ((exact - mean) / spread).to(self.reduce.weight.dtype)
        for _ in range(steps):
            maps = self.enlarge(maps)
        return torch.addcmul(mean, spread, resize(maps, size).to(exact.dtype)).to(lr_feats.dtype)

    def enlarge(self, maps: Tensor) -> Tensor:
        """Double the grid of [B, C, h, w]."""
        return self.depthwise(maps) + self.expand(F.gelu(self.full(self.reduce(maps))))


class PixelShuffle(ConvolutionalUpsampler):
    """Sub-pixel convolution (Shi et al., *Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network*, 2016), adapted as `ConvolutionalUpsampler` describes.

    A 3x3 convolution makes four values of each pixel and channel, which become its four new pixels. It starts as
    nearest-neighbour interpolation: the kernels of the four are equal (ICNR; Aitken et al., 2017).
    """

    Config = PixelShuffleConfig

    @staticmethod
    def make_layer(channels: int, groups: int) -> nn.Module:
        """Convolve, and rearrange channels."""
        convolution = _convolution(channels, 4 * channels, groups)
        for values in (convolution.weight, convolution.get_parameter("bias")):
            with torch.no_grad():
                values.copy_(values[::4].repeat_interleave(4, 0))
        return nn.Sequential(convolution, nn.PixelShuffle(2))

    @staticmethod
    def make_full(channels: int, ratio: int) -> nn.Module:
        """A 3x3 convolution to ratio^2 C channels, rearranged (ReSFU, section 5.1)."""
        convolution = _full_convolution(channels, channels * ratio**2)
        return nn.Sequential(convolution, nn.PixelShuffle(ratio))


class Deconv(ConvolutionalUpsampler):
    """Transposed convolution (Noh et al., *Learning Deconvolution Network for Semantic Segmentation*, 2015; Dumoulin
    and Visin, *A Guide to Convolution Arithmetic for Deep Learning*, 2016), adapted as `ConvolutionalUpsampler`
    describes; the border repeats its pixels.

    Each pixel is spread over 4x4 new ones by a learned kernel. It starts as bilinear interpolation.
    """

    Config = DeconvConfig

    @staticmethod
    def make_layer(channels: int, groups: int) -> nn.Module:
        """Repeat the border, and spread."""
        # Of the repeated border only what it adds to the inside is kept: a padding of 3 new pixels is cut off.
        convolution = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=3, groups=groups)
        if groups == channels:
            axis = torch.tensor([0.25, 0.75, 0.75, 0.25])
            with torch.no_grad():
                convolution.weight.copy_(axis[:, None] * axis)
                nn.init.zeros_(convolution.get_parameter("bias"))
        return nn.Sequential(nn.ReplicationPad2d(1), convolution)

    @staticmethod
    def make_full(channels: int, ratio: int) -> nn.Module:
        """Kernel and stride are the ratio (ReSFU, section 5.1): each pixel becomes ratio x ratio new ones."""
        convolution = nn.ConvTranspose2d(channels, channels, ratio, stride=ratio)
        with torch.no_grad():
            convolution.weight.copy_(torch.eye(channels)[..., None, None])
            nn.init.zeros_(convolution.get_parameter("bias"))
        return convolution


class ResizeConv(ConvolutionalUpsampler):
    """Resize-convolution (Odena et al., *Deconvolution and Checkerboard Artifacts*, 2016), adapted as
    `ConvolutionalUpsampler` describes.

    Bilinear interpolation to twice the size, then a 3x3 convolution, which starts as the identity.
    """

    Config = ResizeConvConfig

    @staticmethod
    def make_layer(channels: int, groups: int) -> nn.Module:
        """Resize, and convolve."""
        enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        return nn.Sequential(enlarge, _convolution(channels, channels, groups))

    @staticmethod
    def make_full(channels: int, ratio: int) -> nn.Module:
        """Resize, and convolve all channels 3x3."""
        enlarge = nn.Upsample(scale_factor=ratio, mode="bilinear", align_corners=False)
        return nn.Sequential(enlarge, _full_convolution(channels, channels))


def _convolution(channels: int, out: int, groups: int) -> nn.Conv2d:
    """A 3x3 convolution; of single channels it starts as copies."""
    convolution = nn.Conv2d(channels, out, 3, padding=1, padding_mode="replicate", groups=groups)
    if groups == channels:
        with torch.no_grad():
            convolution.weight.zero_()[:, :, 1, 1] = 1
            nn.init.zeros_(convolution.get_parameter("bias"))
    return convolution


def _full_convolution(channels: int, out: int) -> nn.Conv2d:
    """A 3x3 convolution of all channels that starts as copies of each."""
    convolution = nn.Conv2d(channels, out, 3, padding=1, padding_mode="replicate")
    with torch.no_grad():
        convolution.weight.zero_()[:, :, 1, 1] = torch.eye(channels).repeat_interleave(out // channels, 0)
        nn.init.zeros_(convolution.get_parameter("bias"))
    return convolution
