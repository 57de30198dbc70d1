"""How much of unseen views upsampled features explain: needs no labels, and any method's output can be scored.

The multi-view idea of FeatUp (section 3) as a measure: features are good if, transformed and pooled like a view of the
picture, they give what the backbone says about that view. The downsampler that pools is fitted to each method's
features in the same way, as no method owns one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featup_cli.core.settings import recorded
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.cache import Arrays
from featup_cli.evaluation.consistency.task import TASK
from featup_cli.evaluation.data import Item, find_images, name_of
from featup_cli.evaluation.run import Evaluation, Scorer
from featup_cli.evaluation.source import FeatureSource, Request
from featup_cli.evaluation.task import PictureOptions
from featup_cli.multiview.lookup import gather, grid_taps
from featup_cli.multiview.views import resize_picture
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.fit import draw_generator, explained_variance, fit_field
from featup_cli.upsamplers.implicit.observe import Observations, observe
from featup_cli.upsamplers.implicit.sampler import TokenSampler

SEED_OFFSET = 10_000  # implicit FeatUp draws the views of its fit by the seed itself


class MapField(nn.Module):
    """A given map of coefficients [K, H, W] as a field: bilinear between its pixels, nothing to fit."""

    def __init__(self, coefficients: Tensor) -> None:
        super().__init__()
        table = coefficients.flatten(1).T.contiguous()
        size = (coefficients.shape[1], coefficients.shape[2])
        # A function, not a buffer: the fit copies a field's buffers at every step, and this one is large.
        self.look_up = lambda position: gather(table, *grid_taps(position, size, cubic=False))

    def forward(self, position: Tensor, color: Tensor) -> Tensor:
        """Coefficients [N, K] at positions [N, 2]."""
        values: Tensor = self.look_up(position)
        return values


@dataclass(frozen=True)
class Views:
    """Views of one picture: those that downsamplers are fitted to, and those that score.

    `unseen` holds the views of `fit` and then its own held-out ones, which nothing was fitted to or chosen by.
    """

    fit: TokenSampler
    unseen: TokenSampler


class ConsistencyScorer(Scorer):
    """Explained variance of unseen jittered views through an equally fitted downsampler.

    Args:
        config: views, their jitter, the downsampler and its fit; `heldout_views` stop the fit, as many more score.
    """

    name = TASK.name

    def __init__(self, config: ImplicitConfig) -> None:
        self.config = config
        self.settings = recorded(config)

    def prepare(self, source: FeatureSource, look: Look, item: Item) -> Views:
        """Look at the picture through views that all methods share."""
        config = self.config
        generator = torch.Generator().manual_seed(source.request.seed + SEED_OFFSET)
        drawn = replace(config, heldout_views=2 * config.heldout_views)
        image, size = source.image(look)[0], look.plan.network
        seen = observe(image, size, source.backbone, drawn, generator, source.request.progress)
        kept = slice(config.views + config.heldout_views)
        fit = replace(
            seen, views=seen.views[kept], tokens=seen.tokens[kept], left_out=seen.left_out[kept],
            heldout=config.heldout_views,
        )  # fmt: skip
        picture = resize_picture(image, size)

        def sampler(observations: Observations) -> TokenSampler:
            return TokenSampler(observations, picture, source.backbone.stride, config)

        return Views(sampler(fit), sampler(replace(seen, heldout=config.heldout_views)))

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Views) -> Arrays:
        """`explained`, the share of the unseen views' variance, and `seconds` of the method."""
        seen = prepared.fit.observations
        basis, mean = seen.pca.basis, seen.pca.mean
        coefficients, seconds = source.projected(
            method, look, basis / seen.scale, -basis @ mean / seen.scale, look.plan.network
        )
        devices = [source.device.index or 0] if source.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(source.request.seed)
            generator = draw_generator(prepared.fit.picture.device, source.request.seed)
            fit = fit_field(MapField(coefficients), prepared.fit, self.config, generator, lambda step, score: None)
        explained = explained_variance(fit.field, fit.downsampler, prepared.unseen)
        return {"explained": np.array(100 * explained), "seconds": np.array(seconds)}


def run(options: PictureOptions, request: Request) -> dict[str, Any]:
    """Score the explained variance of unseen views of pictures, in percent; see `run.evaluate`."""
    items = find_images(options.images, options.limit)
    return Evaluation(request).score(ConsistencyScorer(request.implicit), items, data=name_of(options.images))
