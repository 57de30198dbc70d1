"""Loss of one step: reconstruction of the views (FeatUp, equation 1) and the priors (equation 8, section 6.4).

Three ways to pool a field into tokens. `sampled` and `unbiased` draw tokens and positions inside their windows, and
evaluate the field there only; their cost depends on neither the picture's nor the output's size. With one draw of P
positions the expected loss is the dense one plus the variance of the pooled estimate, about 1/P of the field's in a
window: a smoothing prior that no formula shows. `unbiased` multiplies the errors of two independent draws instead, so
that the variance drops out. `dense` is equation 1 itself: all pixels of all tokens of some views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.multiview.downsample import AttentionDownsampler, SimpleDownsampler
from featup_cli.multiview.lookup import gather, grid_taps
from featup_cli.multiview.losses import Uncertainty, gaussian_likelihood, magnitude_variation, squared_error
from featup_cli.multiview.views import mirror
from featup_cli.multiview.windows import stratified_offsets
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.sampler import TokenSampler

VARIATION_SAMPLES = 512


class Pooled(NamedTuple):
    """What a step pools and compares: T tokens, estimated by D independent draws (1 or 2).

    `tokens` [D, T, K] and `magnitudes` [D, T] are pooled features and pooled norms of features, `observed` [T, K] the
    tokens to match, `features` [N, K] what was evaluated, and `variation` gives the prior of equation 8.
    """

    tokens: Tensor
    magnitudes: Tensor
    observed: Tensor
    features: Tensor
    variation: Callable[[], Tensor]


def multiview_loss(
    field: nn.Module,
    downsampler: SimpleDownsampler,
    uncertainty: Uncertainty | None,
    sampler: TokenSampler,
    config: ImplicitConfig,
    generator: torch.Generator,
) -> Tensor:
    """Loss of one random draw: of tokens and positions, or of views whose windows are pooled whole."""
    pool = pool_windows if config.pooling == "dense" else pool_draws
    pooled = pool(field, downsampler, sampler, config, generator)
    again = pooled.tokens[1] if len(pooled.tokens) > 1 else None
    error = squared_error(pooled.tokens[0], pooled.observed, config.channel_error, again)
    loss = gaussian_likelihood(error, uncertainty(pooled.observed)) if uncertainty is not None else error.mean()
    if config.tv_weight:
        loss = loss + config.tv_weight * pooled.variation()
    if config.magnitude_weight:
        loss = loss + config.magnitude_weight * magnitude_prior(pooled, config)
    return loss


def magnitude_prior(pooled: Pooled, config: ImplicitConfig) -> Tensor:
    """Prior on magnitudes: pooled ones that match the observed ones, or small features (section 6.4, no formula)."""
    if config.magnitude_prior == "small":
        return pooled.features.square().mean()
    off = pooled.magnitudes - pooled.observed.norm(dim=-1)
    return (off[0] * off[-1]).mean()


def pool_draws(
    field: nn.Module,
    downsampler: SimpleDownsampler,
    sampler: TokenSampler,
    config: ImplicitConfig,
    generator: torch.Generator,
) -> Pooled:
    """Random tokens, each pooled over random positions in its window; `unbiased` draws positions twice, of pixels."""
    device = sampler.picture.device
    view, row, col = sampler.draw(range(sampler.observations.fitted), config.tokens, generator)
    observed = sampler.observed(view, row, col)
    draws = 2 if config.pooling == "unbiased" else 1
    view, row, col = (index.repeat(draws) for index in (view, row, col))
    offset = stratified_offsets(len(view), config.positions, generator, device)
    if draws == 2:  # of the pixel around each; all are equally likely still
        offset = (((offset + 1) / 2 * sampler.side).floor() + 0.5) / sampler.side * 2 - 1
    position = sampler.positions(view, row, col, offset).flatten(0, 1)
    features = field(position, sampler.colors(position))
    values = features.view(*offset.shape[:2], -1)
    weights = downsampler.weights(values, offset)
    tokens = torch.einsum("tp,tpk->tk", weights, values)
    magnitudes = torch.einsum("tp,tp->t", weights, values.norm(dim=-1)) if config.magnitude_weight else tokens[:, 0]

    def variation() -> Tensor:
        chosen = torch.randint(len(position), (VARIATION_SAMPLES,), generator=generator, device=device)
        below, right = (mirror(position[chosen] + step) for step in sampler.pixel_steps)
        neighbours = (field(place, sampler.colors(place)) for place in (below, right))
        return magnitude_variation(features[chosen], *neighbours)

    shape = (draws, config.tokens)
    return Pooled(tokens.view(*shape, -1), magnitudes.view(shape), observed, features, variation)


def pool_windows(
    field: nn.Module,
    downsampler: SimpleDownsampler,
    sampler: TokenSampler,
    config: ImplicitConfig,
    generator: torch.Generator,
) -> Pooled:
    """All tokens of random views, each pooled over all pixels of its window."""
    fitted, device = sampler.observations.fitted, sampler.picture.device
    views = torch.randint(fitted, (config.jitters,), generator=generator, device=device)
    features = field(*sampler.pixels)
    tokens, magnitudes = pool_views(features, downsampler, sampler, views)
    observed = sampler.observations.tokens[views].permute(0, 2, 3, 1).flatten(0, 2)

    def variation() -> Tensor:
        rows = features.view(*sampler.picture.shape[1:], -1)
        return magnitude_variation(rows[:-1, :-1], rows[1:, :-1], rows[:-1, 1:])

    return Pooled(tokens.flatten(0, 1)[None], magnitudes.flatten()[None], observed, features, variation)


def pool_views(
    features: Tensor, downsampler: SimpleDownsampler, sampler: TokenSampler, views: Tensor
) -> tuple[Tensor, Tensor]:
    """Features of all pixels, transformed like each view and pooled into all of its tokens.

    Args:
        features: [N, K] of the pixels of the network's input.
        downsampler: what pools.
        sampler: of the picture and its views.
        views: int64 [V], which of them.
    Returns:
        tokens [V, T, K], and norms of features, pooled alike, [V, T].
    """
    windows, size = sampler.windows, (sampler.picture.shape[1], sampler.picture.shape[2])
    parts = [features, features.norm(dim=-1, keepdim=True)]
    if isinstance(downsampler, AttentionDownsampler):
        parts.append(downsampler.saliency(features))  # linear, so it may be computed before the transform
    table, pooled = torch.cat(parts, 1), list[Tensor]()
    for view in views.unbind():
        position = sampler.views.to_image(view.expand(len(windows.lattice)), windows.lattice)
        seen = gather(table, *grid_taps(position, size, cubic=False))
        if isinstance(downsampler, AttentionDownsampler):
            weights = downsampler.weights_of(seen[:, -1][windows.cells], windows.offset)
        else:
            weights = downsampler.weights(seen, windows.offset).expand(len(windows.cells), -1)
        values = seen[:, : features.shape[1] + 1]
        pooled.append(F.embedding_bag(windows.cells, values, per_sample_weights=weights, mode="sum"))
    tokens = torch.stack(pooled)
    return tokens[..., :-1], tokens[..., -1]
