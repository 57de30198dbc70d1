"""The multi-view loss of an upsampler (FeatUp, equation 1), and the same for bilinear interpolation beside it.

Upsamplers of this family mix pixels with weights that all channels share. So features are projected to a few random
directions before upsampling instead of after it (section 3.3), which is the same and cheaper.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.errors import UsageError
from featup_cli.multiview.downsample import AttentionDownsampler, SimpleDownsampler, make_downsampler
from featup_cli.multiview.losses import (
    Uncertainty,
    feature_variation,
    gaussian_likelihood,
    magnitude_variation,
    squared_error,
)
from featup_cli.training.batches import Batch
from featup_cli.training.config import TrainConfig
from featup_cli.upsamplers.interpolation import Interpolation
from featup_cli.upsamplers.pretrained import load_pretrained


class Losses(NamedTuple):
    """Scalars of a batch: what is minimised, and the mean squared errors of the upsampler and of bilinear."""

    loss: Tensor
    error: Tensor
    bilinear_error: Tensor


class MultiViewModel(nn.Module):
    """All that is fitted: the upsampler, its downsampler and uncertainty, and a downsampler for bilinear.

    Args:
        upsampler: called with (image, lr_feats, output_size, values).
        channels: of the features.
        config: settings.
    Raises:
        UsageError: `freeze` names something that the upsampler doesn't have.
    """

    def __init__(self, upsampler: nn.Module, channels: int, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.upsampler = upsampler
        self.downsampler = make_downsampler(config.downsampler, channels, config.kernel_width)
        self.bilinear = Interpolation("bilinear")
        self.bilinear_downsampler = make_downsampler(config.downsampler, channels, config.kernel_width)
        weighs = config.uncertainty and config.target == "views"
        self.uncertainty = Uncertainty(channels) if weighs else None
        fits_downsampler = config.learn_downsampler and config.target == "views"
        self.downsampler.requires_grad_(fits_downsampler)
        self.bilinear_downsampler.requires_grad_(fits_downsampler)
        freeze_parameters(upsampler, [name for name in config.freeze.split(",") if name])
        self.teacher = None if config.target == "views" else load_pretrained(config.target).module.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        """Loss of a batch. The downsampler of bilinear features is fitted by the same loss, apart from the rest."""
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

    def _compare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The upsampled map, and what is compared [N, K]: the upsampler's result, bilinear's and the target."""
        hr_feats, tokens = self._predict(batch)
        hr_bilinear, bilinear_tokens = self._predict_bilinear(batch)
        if self.teacher is None:
            return hr_feats, tokens, bilinear_tokens, batch.observed @ batch.projection
        values = torch.einsum("bchw,ck->bkhw", batch.standardised, batch.projection)
        with torch.no_grad():
            taught = self.teacher(batch.images, batch.lr_feats, self._output_size(batch), values)
        pixels = [maps.movedim(1, 3).flatten(0, 2) for maps in (hr_feats, hr_bilinear, taught)]
        return hr_feats, pixels[0], pixels[1], pixels[2]

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        values = _values(batch, self.downsampler)
        kind = values.device.type
        # Only the upsampler is dear enough for half precision; what it is compared with stays exact.
        half = self.config.precision == "bfloat16" or (self.config.precision == "auto" and kind == "cuda")
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            hr_values = self.upsampler(batch.images, batch.lr_feats, self._output_size(batch), values)
        return _pool(hr_values.float(), batch, self.downsampler)

    def _predict_bilinear(self, batch: Batch) -> tuple[Tensor, Tensor]:
        values = _values(batch, self.bilinear_downsampler)
        hr_feats = self.bilinear(batch.images, values, self._output_size(batch))
        return _pool(hr_feats, batch, self.bilinear_downsampler)

    def _output_size(self, batch: Batch) -> tuple[int, int]:
        height, width = batch.lr_feats.shape[2:]
        return height * self.config.pixels_per_token, width * self.config.pixels_per_token


def freeze_parameters(module: nn.Module, names: list[str]) -> None:
    """Keep the parameters of these names, and those of submodules of these names, as they are.

    Raises:
        UsageError: there is none of that name.
    """
    for name in names:
        chosen = [p for path, p in module.named_parameters() if name in path.split(".")]
        if not chosen:
            parts = {part for path, _ in module.named_parameters() for part in path.split(".") if not part.isdigit()}
            raise UsageError(
                f"freeze={name}: the upsampler has no such parameter; known are {', '.join(sorted(parts))}"
            )
        for parameter in chosen:
            parameter.requires_grad_(False)


def _values(batch: Batch, downsampler: SimpleDownsampler) -> Tensor:
    """What is upsampled: projected features [B, K, h, w], and behind them the saliency if there is one.

    Saliency is linear in all channels, of which the projection keeps a few; so it is taken before.
    """
    projected = torch.einsum("bchw,ck->bkhw", batch.standardised, batch.projection)
    if not isinstance(downsampler, AttentionDownsampler):
        return projected
    salience = downsampler.saliency(batch.standardised.movedim(1, 3)).movedim(3, 1)
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
