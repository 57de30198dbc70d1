"""Look at a picture through jittered views and compress what the backbone says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featup_cli.config import ImplicitConfig
from featup_cli.multiview.views import Views, draw_views, view_source
from featup_cli.pca import PCA, fit_pca
from featup_cli.upsamplers.base import Extract, Progress

PCA_VIEWS = 8
BATCH_PIXELS = 500_000  # views are extracted in batches of about this many pixels


@dataclass(frozen=True)
class Observations:
    """What the backbone says about the views of one picture.

    Attributes:
        views: parameters of the V views; the first is the picture itself, the last `heldout` are kept aside.
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
    network_size: tuple[int, int],
    extract: Extract,
    config: ImplicitConfig,
    generator: torch.Generator,
    progress: Progress,
) -> Observations:
    """Draw views, run the backbone on each, fit PCA on the first ones and keep coefficients only (section 3.3).

    Args:
        picture: [3, H, W] in [0, 1], at any size; zoomed views use its full detail.
        network_size: (height, width) of the backbone's input.
    """
    source = view_source(picture, network_size, config.max_zoom)
    count = config.views + config.heldout_views
    views = draw_views(
        count, (source.shape[1], source.shape[2]), network_size,
        max_pad=config.max_pad * min(network_size) / 224, max_zoom=config.max_zoom, zoom_share=config.zoom_share,
        flips=config.flips, generator=generator,
    )  # fmt: skip
    batch = max(1, BATCH_PIXELS // (network_size[0] * network_size[1]))
    pca: PCA | None = None
    waiting: list[Tensor] = []
    tokens: list[Tensor] = []
    left_out: list[Tensor] = []
    for start in range(0, count, batch):
        members = range(start, min(start + batch, count))
        waiting.append(extract(torch.stack([views.render(source, i) for i in members])))
        progress("views", members.stop, count, "")
        if pca is None:
            if members.stop < min(PCA_VIEWS, count):
                continue
            pca = fit_pca(torch.cat(waiting).permute(0, 2, 3, 1).flatten(0, 2), config.components)
        for features in waiting:
            for view in features:
                coefficients = pca.project(view)
                tokens.append(coefficients)
                centred = view.flatten(1) - pca.mean[:, None]
                left_out.append((centred.square().sum() - coefficients.square().sum()).clamp_min(0))
        waiting.clear()
    assert pca is not None
    stacked = torch.stack(tokens)
    scale = float(stacked[: config.views].square().mean().sqrt().clamp_min(1e-6))
    return Observations(
        views.to(stacked.device), stacked / scale, torch.stack(left_out), pca, scale, config.heldout_views
    )
