"""PAC: transposed convolution whose kernel adapts to the likeness of the picture's pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.baselines.config import PACConfig
from featup_cli.upsamplers.baselines.mixing import PictureMixer, by_old_pixel, initial_logits, reassemble
from featup_cli.upsamplers.guidance import at_least_float32, picture_stem, resize_guidance


class PAC(PictureMixer):
    """Pixel-adaptive transposed convolution (Su et al., *Pixel-Adaptive Convolutional Neural Networks*, 2019,
    sections 3 and 4.1).

    out_i = sum over j of K(f_i, f_j) W[p_j - p_i] v_j + b, with K(f_i, f_j) = exp(-|f_i - f_j|^2 / 2). Old pixel j lies
    at every second new one, f is guidance on the new grid, and the sum runs over the old pixels in the window around i.

    Adapted to frozen features: guidance is made of the picture, averaged to the new grid, by a stem like ReSFU's. By
    default W is one positive number for each place of the window, K W is divided by its sum, and the border repeats its
    pixels. With `full=True` W is a matrix of C x C for each place and nothing is divided. Both start with the W that
    interpolates bilinearly.
    """

    Config = PACConfig
    config: PACConfig

    def __init__(self, channels: int, config: PACConfig | None = None) -> None:
        super().__init__(channels, config)
        side = self.config.kernel_size
        self.stem = picture_stem(self.config.guidance_channels)
        self.shares_weights = self.linear_in_features = not self.config.full
        # Old pixels lie half a new one before the centre of their cell.
        axis = (1 - (torch.arange(side) - side // 2 + 0.5).abs() / 2).clamp(min=0)
        bilinear = axis[:, None] * axis
        if self.config.full:
            self.weight = nn.Parameter(bilinear[..., None, None] * torch.eye(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        else:
            self.spatial = nn.Parameter(initial_logits(bilinear).flatten())
        self.places: Tensor
        self.register_buffer("places", _places(side), persistent=False)

    def predict(self, image: Tensor, grid: Size) -> Tensor:
        """Kernels [B, 4, t * t, h, w] over the window of t x t old pixels; by default of sum one."""
        guidance = self.stem(resize_guidance(image, (2 * grid[0], 2 * grid[1])))
        at_new, at_old = at_least_float32(by_old_pixel(guidance)), at_least_float32(guidance[:, :, ::2, ::2])
        side = math.isqrt(self.places.shape[1])
        padded = F.pad(at_old, (side // 2,) * 4, mode="replicate")[:, :, None]
        corners = [(y, x) for y in range(side) for x in range(side)]
        near = (padded[..., y : y + grid[0], x : x + grid[1]] for y, x in corners)
        likeness = torch.stack([(at_new - old).square().sum(1) for old in near], 2) / -2
        outside = self.places[..., None, None] < 0
        if self.config.full:
            return likeness.exp().masked_fill(outside, 0)
        spatial = self.spatial[self.places.clamp(min=0)][..., None, None]
        return (likeness + spatial).masked_fill(outside, -torch.inf).softmax(2)

    def mix(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Double [B, C, h, w] with kernels that `predict` made; without `full` any number of channels."""
        if not self.config.full:
            return reassemble(maps, weights)
        side, (height, width) = math.isqrt(self.places.shape[1]), maps.shape[2:]
        padded = F.pad(maps.to(self.weight.dtype), (side // 2,) * 4)
        matrices = self.weight.flatten(0, 1)[..., None, None]
        parts = []
        for kernels, places in zip(weights.unbind(1), self.places.tolist(), strict=True):
            total = weights.new_zeros(len(maps), len(self.bias), height, width)
            for t, place in enumerate(places):
                if place >= 0:
                    old = padded[:, :, t // side : t // side + height, t % side : t % side + width]
                    total = total + kernels[:, t, None] * F.conv2d(old, matrices[place])
            parts.append(total)
        return (F.pixel_shuffle(torch.stack(parts, 2).flatten(1, 2), 2) + self.bias[:, None, None]).to(maps.dtype)


def _places(side: int) -> Tensor:
    """Where old pixels lie in the window of a new one: [4, t * t], row-major in a window of side x side, or -1.

    New pixels are the four of a cell, old ones those of the t x t around it.
    """
    radius, reach = side // 2, (side // 2 + 1) // 2
    offsets = 2 * torch.arange(-reach, reach + 1) - torch.arange(2)[:, None] + radius  # [2, t] along an axis
    inside = (offsets >= 0) & (offsets < side)
    rows, columns = offsets[:, None, :, None], offsets[None, :, None, :]
    both = inside[:, None, :, None] & inside[None, :, None, :]
    return torch.where(both, rows * side + columns, -1).reshape(4, -1)
