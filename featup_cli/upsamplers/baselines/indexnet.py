"""IndexNet: nearest-neighbour interpolation, multiplied by indices that the picture predicts."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.baselines.config import IndexNetConfig
from featup_cli.upsamplers.baselines.mixing import PictureMixer
from featup_cli.upsamplers.guidance import picture_stem, resize_guidance


class IndexNet(PictureMixer):
    """Indexed upsampling by a holistic index network (Lu et al., *Index Networks*, 2022, sections 4 and 5), nonlinear
    and with context.

    A 4x4 convolution of stride 2, a norm, a ReLU6 and a 1x1 convolution make four logits of the guidance around each
    old pixel. A sigmoid turns them into the indices of its four new pixels, and each new pixel is the old one times its
    index; all channels share indices.

    Adapted to frozen features: guidance is made of the picture, averaged to the new grid, by a stem like ReSFU's, as
    there is no encoder to take it from, and group norm replaces batch norm. Indices of a cell are four times a softmax
    of those sigmoids (the paper's encoder normalises so), so that the mean over the cell is the old pixel and the start
    is close to nearest neighbour; `index=sigmoid` leaves the sigmoids as they are.
    """

    Config = IndexNetConfig
    config: IndexNetConfig

    def __init__(self, channels: int, config: IndexNetConfig | None = None) -> None:
        super().__init__(channels, config)
        width = self.config.guidance_channels
        self.stem = picture_stem(width)
        self.context = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, padding_mode="replicate", bias=False)
        self.norm = nn.GroupNorm(math.gcd(32, 2 * width), 2 * width)
        self.logits = nn.Conv2d(2 * width, 4, 1, bias=False)

    def predict(self, image: Tensor, grid: Size) -> Tensor:
        """Indices [B, 4, h, w] of the new pixels of each cell, row-major."""
        guidance = self.stem(resize_guidance(image, (2 * grid[0], 2 * grid[1])))
        indices = self.logits(F.relu6(self.norm(self.context(guidance)))).sigmoid()
        return indices if self.config.index == "sigmoid" else 4 * indices.softmax(1)

    def mix(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Double [B, K, h, w] with indices that `predict` made: [B, K, 2 h, 2 w]."""
        return F.pixel_shuffle((maps[:, :, None] * weights[:, None].to(maps.dtype)).flatten(1, 2), 2)
