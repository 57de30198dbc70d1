"""ReSFU: similarity-based upsampling, guided by the picture or a feature map, at any ratio in one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from featup_kernels import neighbor_mix
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.ops.sharpen import make_strengths, sharpen
from featup_cli.upsamplers.api import FLOAT, UpsamplerModule, without_gradients
from featup_cli.upsamplers.guidance import picture_stem, resize_guidance
from featup_cli.upsamplers.resfu.bands import BandedTaps
from featup_cli.upsamplers.resfu.components import explained_part, identity_convolution
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.guided_filter import GuidedFilter
from featup_cli.upsamplers.resfu.keys import HighResKey, Key, LowResKey, gaussian_blur
from featup_cli.upsamplers.resfu.plan import Plan
from featup_cli.upsamplers.resfu.rows import bands_of, store
from featup_cli.upsamplers.resfu.sampling import centres, lookup
from featup_cli.upsamplers.resfu.similarity import InnerProduct, PCDCBlock, weights_of

Size = tuple[int, int]
KEY_PIXELS = 4  # along a token, of the picture that keys of `components` are made of


class ReSFU(UpsamplerModule):
    """Mix the neighbours of every output pixel by how alike they are (ReSFU, section 4).

    Weights are shared by all channels and sum to one, so constants are kept. Names of parameters are those of the
    released module, besides the `stem` that turns a picture into guidance.

    Args:
        channels: C, of the features; None, for any number, with `key="components"`.
        config: settings; the defaults are the paper's.
    Raises:
        UsageError: no number of channels, but keys that are projections of them.
    """

    Config = ReSFUConfig
    config: ReSFUConfig

    def __init__(self, channels: int | None = None, config: ReSFUConfig | None = None) -> None:
        super().__init__(channels, config)
        config = self.config
        self.channels = channels if config.key == "projection" else None
        guidance_channels = config.guidance_channels
        self.stem = picture_stem(guidance_channels) if config.guidance == "image" else None
        self.norm_x: nn.GroupNorm | None = None
        if config.key == "components":
            self.k = identity_convolution(config.projection)
        elif channels is None:
            raise UsageError("a ReSFU whose keys are projections needs the number of channels")
        else:
            self.norm_x = nn.GroupNorm(math.gcd(32, channels), channels)
            self.k = nn.Conv2d(channels, config.projection, 1)
        self.norm_y = nn.GroupNorm(math.gcd(32, guidance_channels), guidance_channels)
        self.q = nn.Conv2d(guidance_channels, config.projection, 1)
        self.GF = GuidedFilter(config.filter_radius, config.filter_eps) if config.guided_query else None
        self.semantic_scores = self._similarity() if config.scores != "detail" else None
        self.detail_scores = self._similarity() if config.scores != "semantic" else None
        self.sharpen_lr = make_strengths(config.sharpen_lr, config.sharpen_lr_wide)

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
        self._check(image, lr_feats, output_size)
        values = sharpen(lr_feats if values is None else values, self.sharpen_lr)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            taps = self.taps_of(image, lr_feats, output_size)
        else:
            banded = BandedTaps(self, image, lr_feats, output_size, keep=True)
            taps = store(banded, output_size[0], banded.rows)(0, output_size[0])
            del banded
        if self.config.neighbors == "fine":
            return neighbor_mix(values, taps.to(values.dtype), output_size)
        return coarse_neighbor_mix(values, taps.to(values.dtype), output_size)

    @without_gradients
    def bands(
        self,
        image: Tensor,
        lr_feats: Tensor,
        output_size: Size,
        rows: int,
        start: int = 0,
        values: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The result of the call in bands of rows; see `Upsampler.bands`, and the call for `values`."""
        self._check(image, lr_feats, output_size)
        values = sharpen(lr_feats if values is None else values, self.sharpen_lr)
        whole = rows >= output_size[0] and not start
        taps: BandedTaps | None = BandedTaps(self, image, lr_feats, output_size, keep=whole)
        for top, bottom in bands_of(output_size[0], rows, start):
            assert taps is not None
            if whole:
                weights = store(taps, bottom, taps.rows)(top, bottom)
                taps = None  # maps that it keeps would lie beside the result
            else:
                weights = torch.cat([taps(*band) for band in bands_of(bottom, taps.rows, top)], 2)
            yield self._mix_rows(values, weights, output_size, top)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The rows that are kept, the widest maps and the band itself; see `Upsampler.band_bytes`."""
        batch, channels, *lr_size = lr_shape
        plan = Plan(self.config, (lr_size[0], lr_size[1]), output_size, self.q.weight.device)
        return FLOAT * batch * plan.floats(channels, rows)

    def _mix_rows(self, values: Tensor, taps: Tensor, size: Size, start: int) -> Tensor:
        """Mix neighbours for the rows from `start` on that `taps` [B, K * K, rows, W] are for: [B, C, rows, W]."""
        taps = taps.to(values.dtype)
        if self.config.neighbors == "coarse":
            return coarse_neighbor_mix(values, taps, size, start)
        # Every output row gets the K low-resolution rows of its own neighbours: between them nothing is left to
        # interpolate, wherever in the picture it lies.
        radius = self.config.kernel_size // 2
        positions = centres(size[0], values.shape[2], values.device)[start : start + taps.shape[2], None]
        offsets = torch.arange(-radius, radius + 1, device=values.device)
        rows = lookup((positions + offsets).flatten(), values.shape[2])(values, 2)
        return neighbor_mix(rows, taps)

    def _check(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> None:
        if self.config.guidance == "features":
            channels = self.config.guidance_channels
            if image.ndim != 4 or image.shape[1] != channels:
                raise ShapeError(f"guidance must be [B, {channels}, H, W], not {list(image.shape)}")
        self.check_call(image if self.stem else image[:, :1].expand(-1, 3, -1, -1), lr_feats, output_size)

    def low_res_key(self, image: Tensor, lr_feats: Tensor) -> Tensor:
        """The key of the semantic score, [B, D, h, w]."""
        if self.norm_x is not None:
            return self.k(self.norm_x(lr_feats))
        assert self.stem is not None
        # A picture of a few pixels per token is enough, and makes keys that do not depend on the output's size.
        size = lr_feats.shape[2] * KEY_PIXELS, lr_feats.shape[3] * KEY_PIXELS
        query = F.avg_pool2d(self.q(self.norm_y(self.stem(resize_guidance(image, size)))), KEY_PIXELS)
        return self.k(explained_part(query, lr_feats, self.config.key_components))

    def taps_of(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> Tensor:
        """Weights of the neighbours, [B, K * K, H, W], made whole and differentiable; arguments as the call."""
        guidance = resize_guidance(image, output_size)
        if self.stem is not None:
            guidance = self.stem(guidance)
        query = self.q(self.norm_y(guidance))
        lr_size = lr_feats.shape[2], lr_feats.shape[3]
        key = LowResKey(self.low_res_key(image, lr_feats), output_size, self.config.neighbors == "coarse")
        scores = []
        if self.semantic_scores is not None:
            aligned = query if self.GF is None else self.GF(query, key)
            scores.append(self.semantic_scores(aligned, key))
        if self.detail_scores is not None:
            scores.append(self.detail_scores(query, self._detail_key(query, lr_size)))
        return weights_of(scores, self.config.kernel_size, lr_size, output_size)

    def _detail_key(self, query: Tensor, lr_size: Size) -> Key:
        smooth = gaussian_blur(query) if self.config.smoothed_key else query
        height, width = query.shape[2:]
        if self.config.neighbors == "coarse":
            return LowResKey(resize_guidance(smooth, lr_size), (height, width), coarse=True)
        return HighResKey.of(smooth, (height / lr_size[0], width / lr_size[1]))


def coarse_neighbor_mix(lr_feats: Tensor, taps: Tensor, size: Size, start: int = 0) -> Tensor:
    """Mix the neighbours of the low-resolution pixel that each output pixel lies in (table 7, without FNS).

    Args:
        lr_feats: [B, C, h, w].
        taps: [B, K * K, rows, W], for the rows from `start` on.
        size: (H, W) of the output.
        start: first of the rows.
    Returns:
        [B, C, rows, W]. In plain PyTorch: it is here for comparison.
    """
    key = LowResKey(lr_feats, size, coarse=True)
    stop = start + taps.shape[2]
    radius = math.isqrt(taps.shape[1]) // 2
    offsets = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    out = taps[:, :1] * key.neighbor(*offsets[0], start, stop)
    for t, offset in enumerate(offsets[1:], 1):
        out = out + taps[:, t, None] * key.neighbor(*offset, start, stop)
    return out
