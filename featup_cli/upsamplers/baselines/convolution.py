"""What baselines that convolve share: a C x C convolution in two parts, around features that keep their scale."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.baselines.config import ConvolutionConfig
from featup_cli.upsamplers.baselines.doubling import DoublingUpsampler, doublings, resize
from featup_cli.upsamplers.guidance import at_least_float32

_LEAST_VARIANCE = 1e-12

MakeLayer = Callable[[int, int], nn.Module]
"""A layer from (channels, groups): [B, channels, h, w] to [B, channels, 2 h, 2 w]."""


class ConvolutionalUpsampler(DoublingUpsampler):
    """Doubles the grid by a convolution that mixes channels too.

    With hundreds of channels a full convolution would hold millions of weights, and at random it would destroy the
    features. So it is done in two parts: one layer for each channel on its own, which starts as interpolation, and a
    full layer between two 1x1 convolutions, with a GELU, that starts at zero. Each channel is seen relative to its
    mean in the picture, in units of its standard deviation there: features of any scale train alike, and constants
    are kept.

    Args:
        channels: C, of the features.
        config: settings.
        make_layer: the layer that doubles the grid.
    """

    shares_weights = False

    def __init__(self, channels: int, config: ConvolutionConfig | None, make_layer: MakeLayer) -> None:
        super().__init__(channels, config)
        config = self.config
        self.depthwise = make_layer(channels, channels)
        self.reduce = nn.Conv2d(channels, config.hidden, 1)
        self.full = make_layer(config.hidden, 1)
        self.expand = nn.Conv2d(config.hidden, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.get_parameter("bias"))

    def upsample(self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None) -> Tensor:
        """Convolve, doubling by doubling; neither picture nor `values` are looked at."""
        exact = at_least_float32(lr_feats)
        variance, mean = torch.var_mean(exact, (2, 3), correction=0, keepdim=True)
        spread = (variance + _LEAST_VARIANCE).sqrt()
        maps = ((exact - mean) / spread).to(self.reduce.weight.dtype)
        for _ in range(doublings((lr_feats.shape[2], lr_feats.shape[3]), size)):
            maps = self.enlarge(maps)
        return torch.addcmul(mean, spread, resize(maps, size).to(exact.dtype)).to(lr_feats.dtype)

    def enlarge(self, maps: Tensor) -> Tensor:
        """Double the grid of [B, C, h, w]."""
        return self.depthwise(maps) + self.expand(F.gelu(self.full(self.reduce(maps))))
