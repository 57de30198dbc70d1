"""A2U: reassembly by kernels that follow from second-order statistics of the picture."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.baselines.config import A2UConfig
from featup_cli.upsamplers.baselines.mixing import PictureMixer, reassemble
from featup_cli.upsamplers.guidance import picture_stem, resize_guidance


class A2U(PictureMixer):
    """Affinity-aware upsampling (Dai et al., *Learning Affinity-Aware Upsampling for Deep Image Matting*, 2021,
    section 3), with parameters that the picture predicts.

    Two depthwise convolutions u, v of stride 2, whose kernels are pooled from the guidance itself, give a bilinear form
    for each old pixel: the sum over channels of u v / sqrt(channels), for each rank. A linear map p of it, pooled from
    the guidance too, gives logits of the k x k taps of four new pixels; taps are the softmax of their sigmoids.

    Adapted to frozen features: guidance is made of the picture, averaged to the new grid, by a stem like ReSFU's, as
    there is no encoder to take it from, and the border repeats its pixels. Taps lie between 1 and e times each other,
    so the start is a blur.
    """

    Config = A2UConfig
    config: A2UConfig
    linear_in_features = True

    def __init__(self, channels: int, config: A2UConfig | None = None) -> None:
        super().__init__(channels, config)
        width, rank = self.config.guidance_channels, self.config.rank
        self.stem = picture_stem(width)
        self.u, self.v = (nn.Conv2d(width, width * rank, 1) for _ in range(2))
        self.norm_u, self.norm_v = (nn.GroupNorm(math.gcd(32, width), width) for _ in range(2))
        self.p = nn.Conv2d(width, 4 * self.config.kernel_size**2 * rank, 1)

    def predict(self, image: Tensor, grid: Size) -> Tensor:
        """Taps [B, 4, k * k, h, w], positive and of sum one."""
        guidance = self.stem(resize_guidance(image, (2 * grid[0], 2 * grid[1])))
        first, second = self.filtered(guidance, self.u, self.norm_u), self.filtered(guidance, self.v, self.norm_v)
        form = (first * second).sum(2) / math.sqrt(guidance.shape[1])  # [B, rank, h, w]
        p = self.p(F.adaptive_avg_pool2d(guidance, 1)).unflatten(1, (-1, self.config.rank))
        logits = (p * form[:, None]).sum(2)
        return logits.unflatten(1, (-1, 4)).transpose(1, 2).sigmoid().softmax(2)

    def mix(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Double [B, K, h, w] with taps that `predict` made: [B, K, 2 h, 2 w]."""
        return reassemble(maps, weights)

    def filtered(self, guidance: Tensor, pooled: nn.Module, norm: nn.Module) -> Tensor:
        """Guidance [B, G, 2 h, 2 w], convolved with kernels pooled from it: [B, rank, G, h, w]."""
        batch, width, height, columns = guidance.shape
        side, rank = self.config.encoder_size, self.config.rank
        kernels = pooled(F.adaptive_avg_pool2d(guidance, side)).unflatten(1, (rank, width))
        # Every channel of every item has `rank` kernels of its own: one group each.
        kernels = kernels.transpose(1, 2).reshape(-1, 1, side, side)
        padded = F.pad(guidance, (side // 2,) * 4, mode="replicate").flatten(0, 1)[None]
        maps = F.conv2d(padded, kernels.to(padded.dtype), stride=2, groups=batch * width)
        maps = maps.view(batch, width, rank, height // 2, columns // 2).transpose(1, 2)
        return F.leaky_relu(norm(maps.flatten(0, 1)), 0.01).view(batch, rank, width, height // 2, columns // 2)
