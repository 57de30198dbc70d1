"""One stage of joint bilateral upsampling: the weights that its guidance gives, for a band of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from featup_kernels import range_taps
from featup_kernels.range_taps.reference import spatial_logits
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.jbu.config import JBUConfig

COLOR_RADIUS = 2.0  # of the sphere that colours are lifted to; half the colour cube's diagonal is 0.87
_LINEAR_PART = 5.0  # GELU is the identity around here


@dataclass(frozen=True)
class Band:
    """Rows `top` to `bottom` of a grid of `size`, to be filtered with windows of `radius`.

    At its border the grid reflects; one too small for that repeats its outer pixels.
    """

    size: Size
    top: int
    bottom: int
    radius: int

    @property
    def first(self) -> int:
        """The first row of the grid that the windows see."""
        return max(self.top - self.radius, 0)

    @property
    def stop(self) -> int:
        """One after the last row of the grid that the windows see."""
        return min(self.bottom + self.radius, self.size[0])

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows of the grid."""
        return (self.top, self.bottom) == (0, self.size[0])

    def inner(self, maps: Tensor) -> Tensor:
        """The band's own rows of [B, C, stop - first, W]."""
        return maps[:, :, self.top - self.first : self.bottom - self.first]

    def pad(self, maps: Tensor) -> Tensor:
        """Widen [B, C, stop - first, W] by the radius at the border of the grid: [B, C, rows + k - 1, W + k - 1]."""
        return self.pad_columns(maps, self.radius - (self.top - self.first), self.radius - (self.stop - self.bottom))

    def pad_columns(self, maps: Tensor, above: int = 0, below: int = 0) -> Tensor:
        """Widen [B, C, n, W] by the radius at the left and right border, and as asked above and below."""
        mode = "reflect" if min(self.size) > self.radius else "replicate"
        return F.pad(maps, (self.radius, self.radius, above, below), mode=mode)


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

    def forward(self, guidance: Tensor, band: Band, coarseness: int = 0) -> Tensor:
        """Weights of the window around every pixel; they sum to one.

        Args:
            guidance: [B, 3, H, W], the rows that the windows of `band` see.
            band: rows of the grid for which weights are made.
            coarseness: stages between this and the last.
        Returns:
            [B, k * k, rows of the band, W].
        """
        temperature = self.range_temp.exp().clamp(1e-4, 1e4) * self.temperature_growth**coarseness
        if self.unit_keys:
            # Unit vectors at a small angle: one minus their product is half their distance squared.
            keys, temperature = self._unit_keys(guidance), temperature * COLOR_RADIUS**2
        else:
            keys = self.range_proj(guidance.to(self.range_temp.dtype))
        keys = band.pad(keys)
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
    height, width = keys.shape[2] - k + 1, keys.shape[3] - k + 1
    if kind == "cosine":
        keys = F.normalize(keys, dim=1)
    centre = keys[:, :, radius : radius + height, radius : radius + width]
    logits = spatial_logits(radius, spatial)

    def logit(t: int) -> Tensor:
        near = keys[:, :, t // k : t // k + height, t % k : t % k + width]
        square = (1 - (near * centre).sum(1)) ** 2 if kind == "cosine" else ((near - centre) ** 2).sum(1)
        return logits[t] - temperature / 2 * square

    # One neighbour at a time: the keys of all of them at once would be large.
    return torch.stack([logit(t) for t in range(k * k)], 1).softmax(1)
