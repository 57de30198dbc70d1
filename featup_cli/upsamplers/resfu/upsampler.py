"""ReSFU: similarity-based upsampling, guided by the picture or a feature map, at any ratio in one step."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from featup_kernels import neighbor_mix
from torch import Tensor, nn

from featup_cli.errors import ShapeError
from featup_cli.upsamplers.base import Details, check_inputs
from featup_cli.upsamplers.guidance import resize_guidance
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.guided_filter import GuidedFilter
from featup_cli.upsamplers.resfu.keys import HighResKey, Key, LowResKey
from featup_cli.upsamplers.resfu.sampling import centres
from featup_cli.upsamplers.resfu.similarity import InnerProduct, PCDCBlock
from featup_cli.upsamplers.sharpen import make_strengths, sharpen

Size = tuple[int, int]
_OUTSIDE = -1e7


class ReSFU(nn.Module):
    """Mix the neighbours of every output pixel by how alike they are (ReSFU, section 4).

    Weights are shared by all channels and sum to one, so constants are kept. Names of parameters are those of the
    released module, besides the `stem` that turns a picture into guidance.

    Args:
        channels: C, of the features.
        config: settings; the defaults are the paper's.
    """

    def __init__(self, channels: int, config: ReSFUConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ReSFUConfig()
        guidance_channels = config.guidance_channels
        self.stem: nn.Module | None = None
        if config.guidance == "image":
            self.stem = nn.Sequential(
                nn.ReplicationPad2d(2),
                nn.Conv2d(3, 64, 3),
                nn.GroupNorm(32, 64),
                nn.ReLU(inplace=True),
                nn.Conv2d(64, guidance_channels, 3),
            )
        self.norm_x = nn.GroupNorm(math.gcd(32, channels), channels)
        self.norm_y = nn.GroupNorm(math.gcd(32, guidance_channels), guidance_channels)
        self.q = nn.Conv2d(guidance_channels, config.projection, 1)
        self.k = nn.Conv2d(channels, config.projection, 1)
        self.GF = GuidedFilter(config.filter_radius, config.filter_eps) if config.guided_query else None
        self.semantic_scores = self._similarity() if config.scores != "detail" else None
        self.detail_scores = self._similarity() if config.scores != "semantic" else None
        self.sharpen_lr = make_strengths(config.sharpen_lr, config.sharpen_lr_wide)
        self.details = Details()

    def _similarity(self) -> nn.Module:
        c = self.config
        if c.similarity == "inner_product":
            return InnerProduct(c.kernel_size)
        return PCDCBlock(c.kernel_size, c.projection, c.hidden, c.groups)

    def forward(self, image: Tensor, lr_feats: Tensor, output_size: Size, values: Tensor | None = None) -> Tensor:
        """Upsample features.

        Args:
            image: [B, 3, H', W'] in [0, 1], or with `guidance="features"` a map [B, `guidance_channels`, H', W'], at
                any size.
            lr_feats: [B, C, h, w].
            output_size: (H, W), any.
            values: [B, K, h, w], mixed in place of `lr_feats` with the same weights: a linear map of them, say.
        Returns:
            [B, C, H, W], or [B, K, H, W] with `values`.
        Raises:
            ShapeError: a tensor of another shape.
        """
        if self.config.guidance == "features":
            channels = self.config.guidance_channels
            if image.ndim != 4 or image.shape[1] != channels:
                raise ShapeError(f"guidance must be [B, {channels}, H, W], not {list(image.shape)}")
        check_inputs(image if self.stem else image[:, :1].expand(-1, 3, -1, -1), lr_feats, output_size)
        if lr_feats.shape[1] != self.k.in_channels:
            raise ShapeError(f"lr_feats must be [B, {self.k.in_channels}, h, w], not {list(lr_feats.shape)}")
        taps = self.taps_of(image, lr_feats, output_size)
        values = sharpen(lr_feats if values is None else values, self.sharpen_lr)
        if self.config.neighbors == "fine":
            return neighbor_mix(values, taps.to(values.dtype), output_size)
        return coarse_neighbor_mix(values, taps.to(values.dtype))

    def taps_of(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> Tensor:
        """Weights of the neighbours, [B, K * K, H, W]; arguments as the call."""
        guidance = resize_guidance(image, output_size)
        if self.stem is not None:
            guidance = self.stem(guidance)
        query = self.q(self.norm_y(guidance))
        del guidance
        lr_size = lr_feats.shape[2], lr_feats.shape[3]
        coarse = self.config.neighbors == "coarse"
        key = LowResKey(self.k(self.norm_x(lr_feats)), output_size, coarse)
        scores = []
        if self.semantic_scores is not None:
            aligned = query if self.GF is None else self.GF(query, key.every_second_pixel())
            scores.append(self.semantic_scores(aligned, key))
            del aligned
        if self.detail_scores is not None:
            scores.append(self.detail_scores(query, self._detail_key(query, lr_size)))
        inside = neighbors_inside(self.config.kernel_size, lr_size, output_size, query.device)
        total = torch.stack(scores).sum(0, dtype=torch.promote_types(query.dtype, torch.float32))
        return total.masked_fill(~inside, _OUTSIDE).softmax(1)

    def _detail_key(self, query: Tensor, lr_size: Size) -> Key:
        smooth = gaussian_blur(query) if self.config.smoothed_key else query
        height, width = query.shape[2:]
        if self.config.neighbors == "coarse":
            return LowResKey(resize_guidance(smooth, lr_size), (height, width), coarse=True)
        return HighResKey(smooth, (height / lr_size[0], width / lr_size[1]))


def gaussian_blur(maps: Tensor) -> Tensor:
    """Blur [B, D, H, W] with a 3x3 Gaussian of standard deviation 1 pixel; the border repeats its outer pixels."""
    side = math.exp(-0.5)
    centre, side = 1 / (1 + 2 * side), side / (1 + 2 * side)
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    rows = (centre * padded[:, :, 1:-1]).add_(padded[:, :, :-2], alpha=side).add_(padded[:, :, 2:], alpha=side)
    return (centre * rows[..., 1:-1]).add_(rows[..., :-2], alpha=side).add_(rows[..., 2:], alpha=side)


def neighbors_inside(kernel_size: int, lr_size: Size, output_size: Size, device: torch.device) -> Tensor:
    """Which neighbours, one low-resolution pixel apart, lie inside the picture: bool [K * K, H, W]."""
    offsets = torch.arange(kernel_size, device=device) - kernel_size // 2
    axes = []
    for size, cells in zip(output_size, lr_size, strict=True):
        positions = centres(size, cells, device) + offsets[:, None]
        axes.append((positions >= -0.5) & (positions < cells - 0.5))
    rows, columns = axes
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def coarse_neighbor_mix(lr_feats: Tensor, taps: Tensor) -> Tensor:
    """Mix the neighbours of the low-resolution pixel that each output pixel lies in (table 7, without FNS).

    Args:
        lr_feats: [B, C, h, w].
        taps: [B, K * K, H, W].
    Returns:
        [B, C, H, W]. In plain PyTorch: it is here for comparison.
    """
    key = LowResKey(lr_feats, (taps.shape[2], taps.shape[3]), coarse=True)
    radius = math.isqrt(taps.shape[1]) // 2
    offsets = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    out = taps[:, :1] * key.neighbor(*offsets[0])
    for t, offset in enumerate(offsets[1:], 1):
        out = out + taps[:, t, None] * key.neighbor(*offset)
    return out
