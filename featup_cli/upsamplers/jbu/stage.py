"""One stage of joint bilateral upsampling: the weights that its guidance gives, and the filtering with them."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from featup_kernels import adaptive_conv, range_taps
from featup_kernels.range_taps.reference import spatial_logits
from torch import Tensor, nn

from featup_cli.upsamplers.jbu.config import JBUConfig

COLOR_RADIUS = 2.0  # of the sphere that colours are lifted to; half the colour cube's diagonal is 0.87
_LINEAR_PART = 5.0  # GELU is the identity around here


class JBUStage(nn.Module):
    """Filter weights of one stage (FeatUp, equations 4 to 6).

    Weights are the normalised product of a range kernel, which compares keys made of the guidance, and a spatial
    Gaussian. Parameter names are those of the official checkpoints.
    """

    def __init__(self, config: JBUConfig) -> None:
        super().__init__()
        self.radius = config.radius
        self.range_kernel = config.range_kernel
        self.temperature_growth = config.temperature_growth
        self.range_temp = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.sigma_spatial = nn.Parameter(torch.tensor(config.spatial_width))
        self.range_proj: nn.Module = nn.Identity()
        if config.mlp:
            self.range_proj = nn.Sequential(
                nn.Conv2d(3, config.key_size, 1),
                nn.GELU(),
                nn.Dropout2d(config.dropout),
                nn.Conv2d(config.key_size, config.key_size, 1),
            )
        self.unit_keys = config.mlp and config.unit_keys and config.range_kernel == "inner_product"
        if self.unit_keys:
            _compare_colors(self.range_proj)
        self.contrast = nn.Parameter(torch.tensor(config.contrast)) if config.contrast else None

    def forward(self, guidance: Tensor, coarseness: int = 0) -> Tensor:
        """Weights [B, k * k, H, W] of a guidance [B, 3, H, W], `coarseness` stages before the last.

        They sum to one over the window.
        """
        temperature = self.range_temp.exp().clamp(1e-4, 1e4) * self.temperature_growth**coarseness
        if self.unit_keys:
            # Unit vectors at a small angle: one minus their product is half their distance squared.
            keys, temperature = self._unit_keys(guidance), temperature * COLOR_RADIUS**2
        else:
            keys = self.range_proj(guidance)
        keys = pad_border(keys, self.radius)
        if self.range_kernel == "inner_product":
            taps = range_taps(keys, self.radius, temperature, self.sigma_spatial)
        else:
            taps = distance_taps(keys, self.radius, temperature, self.sigma_spatial, self.range_kernel)
        if self.contrast is not None:
            spatial = spatial_logits(self.radius, self.sigma_spatial).softmax(0).to(taps.dtype)
            taps = (1 + self.contrast) * taps - self.contrast * spatial[:, None, None]
        return taps

    def _unit_keys(self, guidance: Tensor) -> Tensor:
        """Keys of unit length, in float32 at least: half types can't tell small angles apart."""
        first, gelu, dropout, last = cast(Any, self.range_proj)
        work = torch.promote_types(guidance.dtype, torch.float32)
        with torch.autocast(guidance.device.type, enabled=False):
            hidden = F.conv2d(guidance.to(work), first.weight.to(work), first.bias.to(work))
            keys = F.conv2d(dropout(gelu(hidden)), last.weight.to(work), last.bias.to(work))
            return F.normalize(keys, dim=1)


def _compare_colors(mlp: nn.Module) -> None:
    """Start the MLP so that the inner product of unit keys falls with the distance of colours.

    Colours, centred, become a small patch of a sphere of `COLOR_RADIUS`: the first three channels carry the colour
    through the linear part of GELU, the fourth is constant. The others are zero until training moves them.
    """
    first, last = mlp[0], mlp[3]  # type: ignore[index]
    with torch.no_grad():
        first.weight[:3] = torch.eye(3)[:, :, None, None]
        first.bias[:3] = _LINEAR_PART - 0.5
        last.weight.zero_()
        last.bias.zero_()
        last.weight[:3, :3] = torch.eye(3)[:, :, None, None]
        last.bias[:3] = -_LINEAR_PART
        last.bias[3] = COLOR_RADIUS


def distance_taps(keys: Tensor, radius: int, temperature: Tensor, spatial: Tensor, kind: str) -> Tensor:
    """As `range_taps`, with exp(-temperature / 2 * distance^2) as range kernel.

    `kind` is `euclidean`, or `cosine` for one minus the cosine of the angle between keys. In plain PyTorch: these
    kernels are here for comparison, as in table 4.
    """
    k = 2 * radius + 1
    batch, width_of_key, height, width = keys.shape
    height, width = height - k + 1, width - k + 1
    if kind == "cosine":
        keys = F.normalize(keys, dim=1)
    windows = F.unfold(keys, k).view(batch, width_of_key, k * k, height, width)
    centre = keys[:, :, None, radius : radius + height, radius : radius + width]
    square = (1 - (windows * centre).sum(1)) ** 2 if kind == "cosine" else ((windows - centre) ** 2).sum(1)
    return (spatial_logits(radius, spatial)[:, None, None] - temperature / 2 * square).softmax(1)


def pad_border(maps: Tensor, radius: int) -> Tensor:
    """Reflect [B, C, H, W] at the border; a map too small for that repeats its outer pixels."""
    mode = "reflect" if min(maps.shape[2:]) > radius else "replicate"
    return F.pad(maps, (radius,) * 4, mode=mode)


def filter_stage(source: Tensor, taps: Tensor, resize: str) -> Tensor:
    """Bring `source` [B, C, h, w] to the grid of `taps` [B, k * k, H, W] and filter it there: [B, C, H, W]."""
    mode = "nearest-exact" if resize == "nearest" else resize
    corners = None if resize == "nearest" else False
    source = F.interpolate(source, size=taps.shape[2:], mode=mode, align_corners=corners)
    source = pad_border(source, math.isqrt(taps.shape[1]) // 2)
    return adaptive_conv(source, taps.to(source.dtype))
