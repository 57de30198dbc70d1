from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from featup_cli.core.errors import UsageError
from featup_cli.multiview.downsample import AttentionDownsampler
from featup_cli.training.batches import Batch, Statistics
from featup_cli.training.config import TrainConfig
from featup_cli.training.model import MultiViewModel
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler
from featup_cli.upsamplers.registry import TRAINABLE
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.upsampler import ReSFU
from featup_cli.upsamplers.weights.file import build_upsampler

CHANNELS = 6


def make_upsampler(method: str) -> nn.Module:
    if method == "jbu":
        return JBUUpsampler(JBUConfig(radius=1, key_size=4))
    if method == "resfu":
        return ReSFU(CHANNELS, ReSFUConfig(projection=8, hidden=16, groups=2, filter_radius=2))
    upsampler = build_upsampler(method, {"channels": CHANNELS})
    for parameter in upsampler.parameters():  # away from a start at which some gradients are zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    return upsampler


def make_batch(directions: int) -> Batch:
    statistics = Statistics(torch.randn(CHANNELS), torch.rand(CHANNELS) + 0.5)
    projection = torch.randn(CHANNELS, directions) if directions else torch.eye(CHANNELS)
    return Batch(
        images=torch.rand(2, 3, 32, 32), lr_feats=torch.randn(2, CHANNELS, 4, 4) * 3 + 1, statistics=statistics,
        projection=projection,
        offsets=torch.rand(10, 4, 2) * 2 - 1, positions=torch.rand(2, 5, 4, 2), observed=torch.randn(10, CHANNELS),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["jbu", "resfu", "carafe", "sapa", "fade", "dysample"])
def test_features_may_be_projected_before_upsampling(method: str) -> None:
    upsampler, batch = make_upsampler(method).eval(), make_batch(3)
    whole = upsampler(batch.images, batch.lr_feats, (9, 10))
    values = torch.einsum("bchw,ck->bkhw", batch.lr_feats, batch.projection)
    projected = upsampler(batch.images, batch.lr_feats, (9, 10), values)
    torch.testing.assert_close(projected, torch.einsum("bchw,ck->bkhw", whole, batch.projection), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", list(TRAINABLE))
def test_everything_that_is_fitted_gets_a_gradient(method: str, config: TrainConfig) -> None:
    config = replace(config, downsampler="attention", tv_weight=0.1, magnitude_weight=0.1)
    model = MultiViewModel(make_upsampler(method), CHANNELS, config)
    for module in (model.downsampler, model.bilinear_downsampler):
        assert isinstance(module, AttentionDownsampler)
        nn.init.normal_(module.saliency.weight)
    model(make_batch(3)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_attention_over_a_projection_sees_the_saliency_of_all_channels(config: TrainConfig) -> None:
    model = MultiViewModel(make_upsampler("jbu"), CHANNELS, replace(config, downsampler="attention")).eval()
    attention = model.downsampler
    assert isinstance(attention, AttentionDownsampler)
    nn.init.normal_(attention.saliency.weight)
    nn.init.normal_(attention.saliency.bias)
    batch = make_batch(3)
    with torch.no_grad():
        standardised = batch.statistics.standardise(batch.lr_feats)
        hr_feats = model.upsampler(batch.images, batch.lr_feats, (8, 8), standardised)
        grid = batch.positions.flip(-1) * 2 - 1
        sampled = nn.functional.grid_sample(hr_feats, grid, padding_mode="border", align_corners=False)
        pooled = attention(sampled.permute(0, 2, 3, 1).flatten(0, 1), batch.offsets)
        error = (pooled @ batch.projection - batch.observed @ batch.projection).square()
        torch.testing.assert_close(model(batch).error, error.mean(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.score(batch)[0].float(), error.sum(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("target", ["views", "jbu"])
def test_an_upsampler_that_mixes_channels_is_projected_after_it(target: str, config: TrainConfig) -> None:
    config = replace(config, target=target, uncertainty=False)  # type: ignore[arg-type]
    model, batch = MultiViewModel(make_upsampler("deconv"), CHANNELS, config), make_batch(3)
    whole = replace(batch, projection=torch.eye(CHANNELS))
    with torch.no_grad():
        hr_feats, predicted, bilinear, wanted = model._compare(whole)
        for few, all_of_them in zip(model._compare(batch)[1:], (predicted, bilinear, wanted), strict=True):
            torch.testing.assert_close(few, all_of_them @ batch.projection, atol=1e-4, rtol=1e-4)
        expected = batch.statistics.standardise(model.upsampler(batch.images, batch.lr_feats, (8, 8)))
    torch.testing.assert_close(hr_feats, expected)


def test_the_baseline_learns_without_touching_the_rest(config: TrainConfig) -> None:
    model, batch = MultiViewModel(make_upsampler("jbu"), CHANNELS, config), make_batch(3)
    model(batch).loss.backward()
    before = [p.grad for p in (*model.upsampler.parameters(), *model.downsampler.parameters()) if p.grad is not None]
    loss = model(batch).loss
    nn.init.normal_(model.bilinear_downsampler.bias)
    model.zero_grad()
    other = model(batch)
    other.loss.backward()
    torch.testing.assert_close(other.loss, loss)
    after = [p.grad for p in (*model.upsampler.parameters(), *model.downsampler.parameters()) if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_without_uncertainty_and_priors_the_loss_is_the_squared_error(config: TrainConfig) -> None:
    model, batch = MultiViewModel(make_upsampler("jbu"), CHANNELS, replace(config, uncertainty=False)), make_batch(0)
    losses = model(batch)
    torch.testing.assert_close(losses.loss.detach(), losses.error)
    for prior in ({"tv_weight": 1.0}, {"tv_weight": 1.0, "variation": "features"}, {"magnitude_weight": 1.0}):
        model.config = replace(config, uncertainty=False, **prior)  # type: ignore[arg-type]
        assert bool(model(batch).loss > losses.loss)


def test_bfloat16_stays_close_to_float32(config: TrainConfig) -> None:
    model, batch = MultiViewModel(make_upsampler("resfu"), CHANNELS, config), make_batch(3)
    exact = float(model(batch).error.detach())
    model.config = replace(config, precision="bfloat16")
    half = float(model(batch).error.detach())
    assert half != exact
    assert half == pytest.approx(exact, rel=0.02)


def test_frozen_parameters_keep_their_values_and_the_others_do_not(config: TrainConfig) -> None:
    model = MultiViewModel(make_upsampler("jbu"), CHANNELS, replace(config, freeze="range_temp,range_proj"))
    frozen = {name for name, parameter in model.upsampler.named_parameters() if not parameter.requires_grad}
    assert any("range_temp" in name for name in frozen)
    assert all("range_temp" in name or "range_proj" in name for name in frozen)
    assert model.upsampler.get_parameter("stages.0.sigma_spatial").requires_grad
    with pytest.raises(UsageError, match=r"freeze=sigma: .* choose from .*sigma_spatial"):
        MultiViewModel(make_upsampler("jbu"), CHANNELS, replace(config, freeze="sigma"))


def test_a_fixed_downsampler_is_left_out(config: TrainConfig) -> None:
    model = MultiViewModel(make_upsampler("jbu"), CHANNELS, replace(config, learn_downsampler=False))
    model(make_batch(3)).loss.backward()
    assert model.downsampler.bias.grad is None
    assert model.bilinear_downsampler.bias.grad is None


def test_distillation_compares_every_pixel_with_the_packaged_jbu(config: TrainConfig) -> None:
    batch = make_batch(3)
    config = replace(config, target="jbu", pixels_per_token=4)
    model = MultiViewModel(make_upsampler("resfu"), CHANNELS, config)
    losses = model(batch)
    losses.loss.backward()
    assert model.teacher is not None
    standardised = batch.statistics.standardise(batch.lr_feats)
    values = torch.einsum("bchw,ck->bkhw", standardised, batch.projection)
    taught = model.teacher.module(batch.images, batch.lr_feats, (16, 16), values)
    guessed = model.upsampler(batch.images, batch.lr_feats, (16, 16), values)
    torch.testing.assert_close(losses.error, (guessed - taught).square().mean().detach())
    taught_itself = MultiViewModel(JBUUpsampler(JBUConfig()), CHANNELS, config)
    assert taught_itself(batch).error < 1e-8
    assert all(p.grad is not None for p in model.upsampler.parameters())
    assert not any("teacher" in name for name in model.state_dict())
    assert all(p.grad is None for p in model.teacher.module.parameters())
