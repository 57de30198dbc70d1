"""SAPA: mixing of neighbours by their similarity to the guidance."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.baselines.config import SAPAConfig
from featup_cli.upsamplers.baselines.mixing import Reassembler, by_old_pixel
from featup_cli.upsamplers.guidance import at_least_float32, picture_stem, resize_guidance


class SAPA(Reassembler):
    """Similarity-aware point affiliation (Lu et al., *SAPA: Similarity-Aware Point Affiliation for Feature
    Upsampling*, 2022), with low-rank bilinear similarity and gate.

    Taps are the softmax, over the window around the old pixel l that a new pixel i lies in, of the inner product of a
    query q_i and the keys k_j. The query is g_l q(y_i) + (1 - g_l) p(x_l) of guidance y and features x, with a gate g
    that the features predict; without gate it is q(y_i).

    Adapted to frozen features: guidance is made of the picture, averaged to the new grid, by a stem like ReSFU's, as
    there is no encoder to take it from, and the border repeats its pixels. The features' own query p starts at
    zero. The start is a blur, not interpolation: similarity knows no distance.
    """

    Config = SAPAConfig
    config: SAPAConfig

    def __init__(self, channels: int, config: SAPAConfig | None = None) -> None:
        super().__init__(channels, config)
        config = self.config
        guidance = config.guidance_channels
        self.stem = picture_stem(guidance)
        self.norm_y = nn.GroupNorm(math.gcd(32, guidance), guidance)
        self.q = nn.Conv2d(guidance, config.embedding, 1)
        self.k = nn.Conv2d(channels, config.embedding, 1)
        if config.gate:
            self.p = nn.Conv2d(channels, config.embedding, 1)
            nn.init.zeros_(self.p.weight)
            nn.init.zeros_(self.p.get_parameter("bias"))
            self.gate = nn.Conv2d(channels, 1, 1)

    def encode(self, normalised: Tensor) -> Tensor:
        """Keys, and with the gate the features' own queries and the logit of the gate: [B, D, h, w]."""
        if not self.config.gate:
            return self.k(normalised)
        return torch.cat([part(normalised) for part in (self.k, self.p, self.gate)], 1)

    def predict(self, codes: Tensor, image: Tensor) -> Tensor:
        """Taps [B, 4, k * k, h, w], positive and of sum one."""
        height, width = codes.shape[2:]
        guidance = self.stem(resize_guidance(image, (2 * height, 2 * width)))
        query = by_old_pixel(self.q(self.norm_y(guidance)))
        key = codes
        if self.config.gate:
            key, own, logit = codes.split((self.config.embedding, self.config.embedding, 1), 1)
            gate = logit.sigmoid()[:, :, None]
            query = gate * query + (1 - gate) * own[:, :, None]
        return similarity(query, key, self.config.kernel_size).softmax(2)


def similarity(query: Tensor, key: Tensor, kernel_size: int) -> Tensor:
    """Inner products of queries and the keys in the window around them.

    Args:
        query: [B, D, 4, h, w], of the four new pixels of each old one.
        key: [B, D, h, w]; the border repeats its outer pixels.
        kernel_size: k.
    Returns:
        [B, 4, k * k, h, w], in float32 at least: sums that a softmax compares must not be rounded.
    """
    query, key = at_least_float32(query), at_least_float32(key)
    height, width = key.shape[2:]
    padded = F.pad(key, (kernel_size // 2,) * 4, mode="replicate")[:, :, None]
    corners = [(y, x) for y in range(kernel_size) for x in range(kernel_size)]
    return torch.stack([(query * padded[..., y : y + height, x : x + width]).sum(1) for y, x in corners], 2)
