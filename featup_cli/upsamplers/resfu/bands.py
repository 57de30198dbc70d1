"""The weights of the neighbours, made a few rows at a time.

Group norms need the mean and variance of whole maps. So the rows pass several times: for the statistics of the stem,
of the query and the smoothed query, of the aligned query, and of the compared maps, and at last for the weights. What
a pass needs of earlier maps is made again, unless there is room to keep them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.ops.taps import guidance_rows, in_unit_range
from featup_cli.upsamplers.guidance import like_features, resize_guidance
from featup_cli.upsamplers.resfu.keys import HighResKey, Key, LowResKey, blur_rows, pointwise
from featup_cli.upsamplers.resfu.plan import Plan
from featup_cli.upsamplers.resfu.rows import Rows, Window, bands_of, clamped, store, stored
from featup_cli.upsamplers.resfu.similarity import BandedPCDC, PCDCBlock, weights_of
from featup_cli.upsamplers.resfu.statistics import Affine, ChannelMoments, GroupMoments

Size = tuple[int, int]


class BandedTaps:
    """Weights of the neighbours for a picture and features, equal to `ReSFU.taps_of`.

    Args:
        model: a `ReSFU`. Its module imports this one, so that the type can't be named here.
        image, lr_feats, size: as the call of `ReSFU`.
        keep: keep query and aligned query, two maps of D channels at full size, instead of making them in every pass.
    """

    def __init__(self, model: Any, image: Tensor, lr_feats: Tensor, size: Size, *, keep: bool) -> None:
        self.model, self.config, self.size, self.keep = model, model.config, size, keep
        self.lr_size = lr_feats.shape[2], lr_feats.shape[3]
        self.plan = Plan(model.config, self.lr_size, size, image.device)
        with torch.autocast(image.device.type, enabled=False):
            weight = model.q.weight
            self._prepare(like_features(image, weight), lr_feats.to(weight.dtype))

    @property
    def rows(self) -> int:
        """Most rows of a call."""
        return self.plan.rows

    def __call__(self, start: int, stop: int) -> Tensor:
        """Weights [B, K * K, stop - start, W]; from top to bottom no row is made twice."""
        with torch.autocast(self.device.type, enabled=False):
            scores = [part(start, stop) for part in self.scores]
            return weights_of(scores, self.config.kernel_size, self.lr_size, self.size, start)

    def _prepare(self, image: Tensor, lr_feats: Tensor) -> None:
        model, plan, height = self.model, self.plan, self.size[0]
        self.device = image.device
        guidance = self._guidance(image)
        if self.keep and model.stem is not None:
            guidance = store(guidance, height, plan.tall)
        moments, smooth_moments = self._guidance_moments(guidance)
        to_query = moments.affine(model.norm_y).then(model.q.weight.flatten(1), model.q.bias)
        query = self._held(lambda start, stop: pointwise(guidance(start, stop), *to_query), plan.query_span, plan.tall)
        self.scores: list[Rows] = []
        if model.semantic_scores is not None:
            key = LowResKey(self._low_res_key(image, lr_feats), self.size, self.config.neighbors == "coarse")
            aligned = query
            if model.GF is not None:
                aligned = self._held(model.GF.banded(query, key, plan.aligned), plan.rows, plan.aligned)
            if isinstance(block := model.semantic_scores, PCDCBlock):
                norm = self._norm_of(aligned, block.norm) if model.GF else moments.affine(block.norm, *to_query)
                key = key.normalised(block.norm)
                self.scores.append(BandedPCDC(block, aligned, norm, key, None, plan.rows))
            else:
                self.scores.append(partial(_inner_products, block, aligned, key))
        if model.detail_scores is not None:
            detail_key = self._detail_key(query)
            if isinstance(block := model.detail_scores, PCDCBlock):
                norm, key_norm = moments.affine(block.norm, *to_query), smooth_moments.affine(block.norm, *to_query)
                if isinstance(detail_key, LowResKey):
                    detail_key = detail_key.normalised(block.norm)
                self.scores.append(BandedPCDC(block, query, norm, detail_key, key_norm, plan.rows))
            else:
                self.scores.append(partial(_inner_products, block, query, detail_key))
        self._count_compared()

    def _count_compared(self) -> None:
        """Pass for the statistics of the compared maps."""
        compared = [scores for scores in self.scores if isinstance(scores, BandedPCDC)]
        for band in bands_of(self.size[0], self.plan.rows) if compared else ():
            for scores in compared:
                scores.count(*band)
        for scores in compared:
            scores.seal()

    def _held(self, rows: Rows, span: int, chunk: int) -> Rows:
        """Keep all rows, or the last `span` and some more."""
        if self.keep:
            return store(rows, self.size[0], chunk)
        return Window(rows, self.size[0], span, chunk)

    def _guidance(self, image: Tensor) -> Rows:
        """Rows of the map that makes the query."""
        if tuple(image.shape[2:]) == self.size:
            picture: Rows = lambda start, stop: in_unit_range(image[:, :, start:stop])  # noqa: E731
        elif self.keep:
            picture = stored(resize_guidance(image, self.size))
        else:
            picture = partial(guidance_rows, image, self.size)
        if self.model.stem is None:
            return picture
        assert isinstance(self.model.stem, nn.Sequential)
        first, norm, second = (self.model.stem[i] for i in (1, 2, 4))
        assert isinstance(first, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        height = self.size[0]

        def hidden(start: int, stop: int) -> Tensor:
            # The stem repeats two pixels at the border: row y reads rows y - 2 to y of the picture.
            padded = F.pad(clamped(picture, height, start - 2, stop), (2, 2, 0, 0), mode="replicate")
            return F.conv2d(padded, first.weight, first.bias)

        moments = GroupMoments(norm)
        for start, stop in bands_of(height + 2, self.plan.tall):
            moments.add(hidden(start, stop))
        affine = moments.affine()
        return lambda start, stop: second(affine(hidden(start, stop + 2)).relu_())

    def _guidance_moments(self, guidance: Rows) -> tuple[ChannelMoments, ChannelMoments]:
        """Of the guidance and of the smoothed guidance; where nothing is smoothed they are the same."""
        plan, height = self.plan, self.size[0]
        moments = ChannelMoments()
        if not self.config.smoothed_key:
            for start, stop in bands_of(height, plan.tall):
                moments.add(guidance(start, stop))
            return moments, moments
        smooth = ChannelMoments()
        held = guidance if self.keep else Window(guidance, height, plan.tall + 2, plan.tall)
        for start, stop in bands_of(height, plan.tall):
            smooth.add(blur_rows(clamped(held, height, start - 1, stop + 1)))
            moments.add(held(start, stop))
        return moments, smooth

    def _low_res_key(self, image: Tensor, lr_feats: Tensor) -> Tensor:
        """The key of the model; of a projection without a normalised copy of the features."""
        if self.model.norm_x is None:
            return self.model.low_res_key(image, lr_feats)
        moments = GroupMoments(self.model.norm_x)
        for rows in lr_feats.split(max(1, self.plan.rows), 2):
            moments.add(rows)
        return pointwise(lr_feats, *moments.affine().then(self.model.k.weight.flatten(1), self.model.k.bias))

    def _norm_of(self, rows: Rows, norm: nn.GroupNorm) -> Affine:
        """A group norm with the statistics of all rows."""
        moments = GroupMoments(norm)
        for start, stop in bands_of(self.size[0], self.plan.aligned):
            moments.add(rows(start, stop))
        return moments.affine()

    def _detail_key(self, query: Rows) -> Key:
        height = self.size[0]
        smooth = query
        if self.config.smoothed_key:
            # In bands it is blurred again for each row of neighbours, as these may be hundreds of rows apart.
            smooth = lambda start, stop: blur_rows(clamped(query, height, start - 1, stop + 1))  # noqa: E731
            smooth = store(smooth, height, self.plan.tall) if self.keep else smooth
        if self.config.neighbors == "fine":
            return HighResKey(smooth, self.size, self.plan.step)
        # As `resize_guidance` pools, one row of cells at a time.
        pooled = [min(sides) for sides in zip(self.size, self.lr_size, strict=True)]
        edges = [(i * height // pooled[0], -(-(i + 1) * height // pooled[0])) for i in range(pooled[0])]
        maps = torch.cat([F.adaptive_avg_pool2d(smooth(*edge), (1, pooled[1])) for edge in edges], 2)
        return LowResKey(resize_guidance(maps, self.lr_size), self.size, coarse=True)


def _inner_products(block: nn.Module, query: Rows, key: Key, start: int, stop: int) -> Tensor:
    scores: Tensor = block(query(start, stop), key, start, stop)
    return scores
