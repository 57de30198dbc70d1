"""ReSFU: similarity-based upsampling, guided by the picture or a feature map, at any ratio in one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.core.shapes import Size
from featup_cli.ops.sharpen import make_strengths, sharpen
from featup_cli.upsamplers.api import FLOAT, UpsamplerModule
from featup_cli.upsamplers.guidance import like_features, picture_stem, resize_guidance
from featup_cli.upsamplers.resfu.components import explained_part, identity_convolution
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.guided_filter import GuidedFilter
from featup_cli.upsamplers.resfu.key import LowResKey, detail_key
from featup_cli.upsamplers.resfu.plan import Keep, Plan
from featup_cli.upsamplers.resfu.query import guidance_of, query_of
from featup_cli.upsamplers.resfu.rows import Rows, stored
from featup_cli.upsamplers.resfu.scores import ConcatBlock, InnerProduct, PCDCBlock, compressed
from featup_cli.upsamplers.resfu.selection import NeighborSelection
from featup_cli.upsamplers.resfu.statistics import Map, norms_of, pointwise

KEY_PIXELS = 4  # along a token, of the picture that keys of `components` are made of


# Not frozen: the compiler of PyTorch 2.9 and older loses the fields of frozen records that it makes and calls.
@dataclass
class Pairs:
    """Queries and keys that the scores compare; None for those of a score that is not used.

    Attributes:
        query: q, from the guidance.
        key: k, of the semantic score, from the features.
        aligned: q_GF, the query that is compared with `key`.
        smoothed: q_GS, whose neighbours the detail score compares with `query`.
    """

    query: Map
    key: LowResKey | None
    aligned: Map | None
    smoothed: Map | None


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
        self.GF = GuidedFilter(config) if config.guided_query else None
        self.semantic_scores = self._similarity() if config.scores != "detail" else None
        self.detail_scores = self._similarity() if config.scores != "semantic" else None
        self.sharpen_lr = make_strengths(config.sharpen_lr, config.sharpen_lr_wide)

    def _similarity(self) -> InnerProduct | PCDCBlock:
        if self.config.similarity == "inner_product":
            return InnerProduct()
        return (PCDCBlock if self.config.similarity == "pcdc" else ConcatBlock)(self.config)

    def prepare(
        self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None = None, *, whole: bool = True
    ) -> NeighborSelection:
        """Statistics of the whole picture, and what makes the weights by rows.

        With `guidance="features"` the image is a map [B, `guidance_channels`, H', W'], at any size.
        """
        self._check(image, lr_feats, size)
        keep = Keep.NARROW if whole else Keep.NONE
        if whole and (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            keep = Keep.ALL
        weight, lr_size = self.q.weight, (lr_feats.shape[2], lr_feats.shape[3])
        plan = Plan(self.config, lr_size, size, weight.device, keep)
        with torch.autocast(weight.device.type, enabled=False):
            scores = self.scores(self.pairs(image, lr_feats, plan), plan)
        return NeighborSelection(scores, sharpen(lr_feats if values is None else values, self.sharpen_lr), plan)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The rows that are kept, the widest maps and the band itself."""
        batch, channels, *lr_size = lr_shape
        plan = Plan(self.config, (lr_size[0], lr_size[1]), output_size, self.q.weight.device)
        return FLOAT * batch * plan.floats(channels, rows)

    def _check(self, image: Tensor, lr_feats: Tensor, size: Size) -> None:
        channels = self.config.guidance_channels
        if self.stem is None and (image.ndim != 4 or image.shape[1] != channels):
            raise ShapeError(f"guidance must be [B, {channels}, H, W], not {list(image.shape)}")
        self.check_call(image if self.stem else image[:, :1].expand(-1, 3, -1, -1), lr_feats, size)

    def pairs(self, image: Tensor, lr_feats: Tensor, plan: Plan) -> Pairs:
        """Queries and keys by rows; arguments as of `prepare`."""
        c, weight = self.config, self.q.weight
        image, lr_feats = like_features(image, weight), lr_feats.to(weight.dtype)
        query, smooth = query_of(guidance_of(image, self.stem, plan), self.norm_y, self.q, plan, c.smoothed_key)
        pairs = Pairs(query, None, None, None if self.detail_scores is None else smooth)
        if self.semantic_scores is not None:
            pairs.key = LowResKey(self._low_res_key(image, lr_feats, plan), plan.size, c.neighbors == "coarse")
            pairs.aligned = self._aligned(query, pairs.key, plan)
        return pairs

    def scores(self, pairs: Pairs, plan: Plan) -> list[Rows]:
        """The semantic and the detail score: rows of [B, K * K, H, W], none made twice from top to bottom."""
        compared = []
        if self.semantic_scores is not None and pairs.aligned is not None and pairs.key is not None:
            compared.append(self.semantic_scores(pairs.aligned, pairs.key, plan))
        if self.detail_scores is not None and pairs.smoothed is not None:
            compared.append(self.detail_scores(pairs.query, detail_key(pairs.smoothed, plan), plan))
        blocks = [block for block in (self.semantic_scores, self.detail_scores) if isinstance(block, PCDCBlock)]
        return compressed(blocks, compared, plan) if blocks else compared

    def _aligned(self, query: Map, key: LowResKey, plan: Plan) -> Map:
        """The query, aligned with the key by the guided filter."""
        if self.GF is None:
            return query
        rows = plan.kept(self.GF(query.rows, key, plan), plan.aligned, plan.aligned_span)
        return Map(rows, lambda norm: norms_of([(rows, norm)], plan.size[0], plan.aligned)[0])

    def _low_res_key(self, image: Tensor, lr_feats: Tensor, plan: Plan) -> Tensor:
        """The key of the semantic score, [B, D, h, w]."""
        if self.norm_x is not None:
            (norm,) = norms_of([(stored(lr_feats), self.norm_x)], lr_feats.shape[2], plan.rows)
            return pointwise(lr_feats, *norm.then(self.k.weight, self.k.bias))
        assert self.stem is not None
        # A picture of a few pixels per token is enough, and makes keys that do not depend on the output's size.
        size = lr_feats.shape[2] * KEY_PIXELS, lr_feats.shape[3] * KEY_PIXELS
        query = F.avg_pool2d(self.q(self.norm_y(self.stem(resize_guidance(image, size)))), KEY_PIXELS)
        return self.k(explained_part(query, lr_feats, self.config.key_components))
