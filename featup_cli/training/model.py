"""The multi-view loss of an upsampler (FeatUp, equation 1), and the same for bilinear interpolation beside it.

Features are compared in a few random directions (section 3.3). Most upsamplers mix pixels with weights that all
channels share. Then features are projected before upsampling instead of after it, which gives the same at less cost.
Other upsamplers have the attribute `shares_weights = False`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import UsageError
from featup_cli.core.shapes import Size
from featup_cli.multiview.downsample import AttentionDownsampler, SimpleDownsampler, make_downsampler
from featup_cli.multiview.losses import (
    Uncertainty,
    feature_variation,
    gaussian_likelihood,
    magnitude_variation,
    squared_error,
)
from featup_cli.training.batches import Batch
from featup_cli.training.config import VIEWS, TrainConfig
from featup_cli.upsamplers.attached import PretrainedUpsampler
from featup_cli.upsamplers.interpolation.upsampler import Interpolation
from featup_cli.upsamplers.weights.find import load_pretrained

Read = Callable[[Tensor], Tensor]
"""A linear map of the channels of standardised features, applied before they are compared."""


class Losses(NamedTuple):
    """Scalars of a batch: the loss, and the mean squared errors of the upsampler and of bilinear."""

    loss: Tensor
    error: Tensor
    bilinear_error: Tensor


class Comparison(NamedTuple):
    """An upsampled map [B, K, H, W], and its tokens or pixels [N, K] beside those of bilinear and the target."""

    hr_feats: Tensor
    predicted: Tensor
    bilinear: Tensor
    target: Tensor


class MultiViewModel(nn.Module):
    """All trained modules: the upsampler, its downsampler and uncertainty, and a downsampler for bilinear.

    Args:
        upsampler: called with (image, lr_feats, output_size, values), or without values if its `shares_weights` is
            False.
        channels: of the features.
        config: settings.
    Raises:
        UsageError: `freeze` names an unknown parameter.
    """

    def __init__(self, upsampler: nn.Module, channels: int, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.upsampler = upsampler
        self.downsampler = make_downsampler(config.downsampler, channels, config.kernel_width)
        self.bilinear = Interpolation("bilinear")
        self.bilinear_downsampler = make_downsampler(config.downsampler, channels, config.kernel_width)
        of_views = config.target == VIEWS
        self.uncertainty = Uncertainty(channels) if config.uncertainty and of_views else None
        for downsampler in (self.downsampler, self.bilinear_downsampler):
            downsampler.requires_grad_(config.learn_downsampler and of_views)
        freeze_parameters(upsampler, [name for name in config.freeze.split(",") if name])
        # Not a submodule, so that its weights are neither averaged nor saved with what is trained.
        self.teacher = None if of_views else load_pretrained(config.target)

    def forward(self, batch: Batch) -> Losses:
        """Loss of a batch. The downsampler of bilinear features is fitted separately by the same loss."""
        config = self.config
        hr_feats, predicted, bilinear, target = self._compare(batch)
        error, bilinear_error = squared_error(predicted, target), squared_error(bilinear, target)
        if self.uncertainty is None:
            loss, bilinear_loss = error.mean(), bilinear_error.mean()
        else:
            log_spread = self.uncertainty(batch.observed)
            loss = gaussian_likelihood(error, log_spread)
            bilinear_loss = gaussian_likelihood(bilinear_error, log_spread.detach())
        if config.tv_weight:
            variation = magnitude_variation if config.variation == "magnitudes" else feature_variation
            pixels = hr_feats.movedim(1, 3)
            here, below, right = pixels[:, :-1, :-1], pixels[:, 1:, :-1], pixels[:, :-1, 1:]
            loss = loss + config.tv_weight * variation(here, below, right)
        if config.magnitude_weight:
            loss = loss + config.magnitude_weight * hr_feats.square().mean()
        # A value of zero carries the baseline's gradient, so that the loss reported is the upsampler's alone.
        loss = loss + bilinear_loss - bilinear_loss.detach()
        return Losses(loss, error.mean().detach(), bilinear_error.mean().detach())

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Squared errors of upsampler and bilinear, and squares of the targets, summed over a batch: [3], float64."""
        _, predicted, bilinear, target = self._compare(batch)
        sums = [(result - target).square().sum(dtype=torch.float64) for result in (predicted, bilinear)]
        return torch.stack([*sums, target.square().sum(dtype=torch.float64)])

    def _compare(self, batch: Batch) -> Comparison:
        """The upsampled map, and the values to compare."""
        if self.teacher is not None:
            return self._compare_with_teacher(batch, self.teacher)
        reads = [partial(_read, batch, downsampler) for downsampler in (self.downsampler, self.bilinear_downsampler)]
        hr_feats, tokens = _pool(self._upsample(batch, reads[0]), batch, self.downsampler)
        _, bilinear_tokens = _pool(self._interpolate(batch, reads[1]), batch, self.bilinear_downsampler)
        return Comparison(hr_feats, tokens, bilinear_tokens, batch.observed @ batch.projection)

    def _compare_with_teacher(self, batch: Batch, teacher: PretrainedUpsampler) -> Comparison:
        """As `_compare`, for every pixel of the teacher's output."""
        hr_feats = self._upsample(batch, batch.project)
        # The teacher is linear in the features, so they may be projected before it.
        taught = teacher(batch.images, batch.project(batch.standardised), self._output_size(batch))
        maps = (hr_feats, self._interpolate(batch, batch.project), taught)
        return Comparison(hr_feats, *(m.movedim(1, 3).flatten(0, 2) for m in maps))

    def _upsample(self, batch: Batch, read: Read) -> Tensor:
        """Standardised features, mapped by `read` and upsampled: [B, K, H, W]."""
        inputs = (batch.images, batch.lr_feats, self._output_size(batch))
        kind = batch.lr_feats.device.type
        # Only the upsampler is dear enough for half precision; what it is compared with stays exact.
        half = self.config.precision == "bfloat16" or (self.config.precision == "auto" and kind == "cuda")
        values = (read(batch.standardised),) if getattr(self.upsampler, "shares_weights", True) else ()
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            hr_values = self.upsampler(*inputs, *values)
        return hr_values.float() if values else read(batch.statistics.standardise(hr_values))

    def _interpolate(self, batch: Batch, read: Read) -> Tensor:
        """As `_upsample`, by bilinear interpolation."""
        return self.bilinear(batch.images, read(batch.standardised), self._output_size(batch))

    def _output_size(self, batch: Batch) -> Size:
        height, width = batch.lr_feats.shape[2:]
        return height * self.config.pixels_per_token, width * self.config.pixels_per_token


def freeze_parameters(module: nn.Module, names: list[str]) -> None:
    """Freeze the parameters with these names, and all parameters of submodules with these names.

    Raises:
        UsageError: no parameter has that name.
    """
    for name in names:
        chosen = [p for path, p in module.named_parameters() if name in path.split(".")]
        if not chosen:
            parts = {part for path, _ in module.named_parameters() for part in path.split(".") if not part.isdigit()}
            raise UsageError(
                f"freeze={name}: the upsampler has no such parameter; choose from {', '.join(sorted(parts))}"
            )
        for parameter in chosen:
            parameter.requires_grad_(False)


def _read(batch: Batch, downsampler: SimpleDownsampler, standardised: Tensor) -> Tensor:
    """Projected features [B, K, H, W], followed by the saliency if there is one.

    Saliency is linear in all channels, but the projection keeps a few; so it is computed separately.
    """
    projected = batch.project(standardised)
    if not isinstance(downsampler, AttentionDownsampler):
        return projected
    salience = downsampler.saliency(standardised.movedim(1, 3)).movedim(3, 1)
    return torch.cat((projected, salience), 1)


def _pool(hr_values: Tensor, batch: Batch, downsampler: SimpleDownsampler) -> tuple[Tensor, Tensor]:
    """Upsampled features [B, K, H, W], and the tokens [B * T, K] that they make."""
    hr_feats = hr_values[:, : batch.projection.shape[1]]
    grid = batch.positions.flip(-1).to(hr_values.dtype) * 2 - 1
    sampled = F.grid_sample(hr_values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    sampled = sampled.permute(0, 2, 3, 1).flatten(0, 1)  # [B * T, P, K]
    features = sampled[..., : hr_feats.shape[1]]
    if isinstance(downsampler, AttentionDownsampler):
        weights = downsampler.weights_of(sampled[..., -1], batch.offsets)
    else:
        weights = downsampler.weights(features, batch.offsets)
    return hr_feats, torch.einsum("tp,tpk->tk", weights, features)
