"""Look at a picture through jittered views and compress what the backbone says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from featup_cli.core.progress import Progress
from featup_cli.core.shapes import Size
from featup_cli.multiview.views import Views, draw_views, view_source
from featup_cli.ops.pca import PCA, fit_pca
from featup_cli.upsamplers.api import Extract
from featup_cli.upsamplers.implicit.config import ImplicitConfig

PCA_VIEWS = 8
BATCH_PIXELS = 500_000  # views are extracted in batches of about this many pixels


@dataclass(frozen=True)
class Observations:
    """What the backbone says about the views of one picture.

    Attributes:
        views: parameters of the V views, on the CPU; the first is the picture itself, the last `heldout` are kept
            aside.
        tokens: [V, K, h, w] coefficients in `pca`, divided by `scale`.
        left_out: [V] squared norm, over all tokens of a view, of what the components leave out.
        pca: basis of the features, from the first views.
        scale: number that gives the coefficients unit mean variance.
        heldout: how many views at the end are not fitted.
    """

    views: Views
    tokens: Tensor
    left_out: Tensor
    pca: PCA
    scale: float
    heldout: int

    @property
    def fitted(self) -> int:
        """Number of views that are fitted."""
        return len(self.views) - self.heldout


def observe(
    picture: Tensor,
    network_size: Size,
    extract: Extract,
    config: ImplicitConfig,
    generator: torch.Generator,
    progress: Progress,
) -> Observations:
    """Draw views, run the backbone on each, fit PCA on the first ones and keep coefficients only (section 3.3).

    Args:
        picture: [3, H, W] in [0, 1], at any size; zoomed views use its full detail, if asked.
        network_size: (height, width) of the backbone's input.
        extract: the backbone.
        config: settings.
        generator: CPU generator of the views; the same one gives the same views on any device.
        progress: called after each batch of views.
    """
    source = view_source(picture, network_size, config.max_zoom if config.full_detail else 1.0)
    views = plan_views(source, network_size, config, generator)

    def features() -> Iterator[Tensor]:
        done = 0
        for batch in render_batches(views, source):
            done += len(batch)
            yield extract(batch)
            progress("views", done, len(views), "")

    return compress(features(), views, config)


def plan_views(source: Tensor, network_size: Size, config: ImplicitConfig, generator: torch.Generator) -> Views:
    """Draw the views of `source` [3, H, W], those that are kept aside included."""
    return draw_views(
        config.views + config.heldout_views, (source.shape[1], source.shape[2]), network_size,
        max_pad=config.max_pad * min(network_size) / 224, max_zoom=config.max_zoom, zoom_share=config.zoom_share,
        flips=config.flips, generator=generator,
    )  # fmt: skip


def render_batches(views: Views, source: Tensor) -> Iterator[Tensor]:
    """All views of `source` in batches [B, 3, *view_size] of about `BATCH_PIXELS`."""
    batch = max(1, BATCH_PIXELS // (views.view_size[0] * views.view_size[1]))
    for start in range(0, len(views), batch):
        yield torch.stack([views.render(source, i) for i in range(start, min(start + batch, len(views)))])


def compress(batches: Iterable[Tensor], views: Views, config: ImplicitConfig) -> Observations:
    """Coefficients of the views' features, which come in batches [B, C, h, w], in the components of the first ones."""
    batches, first = iter(batches), list[Tensor]()
    while sum(map(len, first)) < min(PCA_VIEWS, len(views)):
        first.append(next(batches))
    pca = fit_pca(torch.cat(first).permute(0, 2, 3, 1).flatten(0, 2), config.components)
    tokens, left_out = list[Tensor](), list[Tensor]()
    for features in chain((first.pop(0) for _ in range(len(first))), batches):
        for view in features:
            coefficients = pca.project(view)
            tokens.append(coefficients)
            centred = view.flatten(1) - pca.mean[:, None]
            left_out.append((centred.square().sum() - coefficients.square().sum()).clamp_min(0))
    stacked = torch.stack(tokens)
    scale = float(stacked[: config.views].square().mean().sqrt().clamp_min(1e-6))
    return Observations(views, stacked / scale, torch.stack(left_out), pca, scale, config.heldout_views)
