from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.distributed import Workers
from featup_cli.core.progress import no_progress
from featup_cli.training.batches import Batches, measure_statistics
from featup_cli.training.cache import FeatureCache, fill_cache
from featup_cli.training.config import PRESETS, TrainConfig
from featup_cli.training.pictures import find_pictures


def make(backbone: Backbone, config: TrainConfig, pictures: Path, folder: Path) -> Batches:
    cache = FeatureCache(folder, backbone, config)
    readable, _ = fill_cache(cache, find_pictures([pictures]), Workers(), no_progress)
    keys = [key for _, sample_keys in readable for key in sample_keys]
    return Batches(cache, keys[:4], keys[4:], measure_statistics(cache, keys[:4]), config, backbone.stride, seed=0)


@pytest.fixture
def colours() -> Backbone:
    """Mean colours as features: fast, and known for every box of a picture."""
    pool = replace(load_backbone(BackboneConfig()), network=lambda x: F.avg_pool2d(x, 16), channels=3)
    return replace(pool, weights_sha256="colours")


@pytest.fixture
def batches(colours: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path) -> Batches:
    return make(colours, config, pictures, tmp_path / "c")


def test_a_step_is_always_the_same_and_no_other(batches: Batches) -> None:
    first, again, other = (batches.training(step, range(2)) for step in (5, 5, 6))
    for field in fields(first):
        torch.testing.assert_close(getattr(first, field.name), getattr(again, field.name), rtol=0, atol=0)
    assert not torch.equal(first.offsets, other.offsets)
    assert not torch.equal(first.projection, other.projection)


def test_shares_of_two_processes_make_the_whole_batch(batches: Batches) -> None:
    whole = batches.training(3, range(4))
    halves = [batches.training(3, members) for members in (range(2), range(2, 4))]
    for field in fields(whole):
        if field.name in ("projection", "statistics"):
            for half in halves:
                torch.testing.assert_close(getattr(half, field.name), getattr(whole, field.name), rtol=0, atol=0)
        else:
            joined = torch.cat([getattr(half, field.name) for half in halves])
            assert torch.equal(joined, getattr(whole, field.name))


def test_standardised_channels_have_mean_zero_and_variance_one(batches: Batches) -> None:
    features = torch.stack([batches.cache.load(key).features[0] for key in batches.keys])
    standardised = batches.statistics.standardise(features)
    torch.testing.assert_close(standardised.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(standardised.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_tokens_are_found_again_at_their_positions_in_the_crop(
    colours: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    config = replace(config, views=6, tokens=200, positions=64, kernel_size=16.0, projection=0, crop_size=96)
    batches = make(colours, config, pictures, tmp_path / "c")
    batch = batches.training(1, range(3))
    grid = batch.positions.flip(-1) * 2 - 1
    pooled = F.grid_sample(batch.images, grid, align_corners=False).mean(-1).transpose(1, 2).flatten(0, 1)
    observed = batch.observed * batches.statistics.std + batches.statistics.mean
    unexplained = (pooled - observed).square().sum() / (observed - observed.mean(0)).square().sum()
    assert float(unexplained) < 0.01


def test_a_step_of_whole_views_uses_each_of_their_tokens_once_and_none_of_the_crop(
    colours: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    batches = make(colours, replace(config, views=5, jitters=2), pictures, tmp_path / "c")
    batch = batches.training(2, range(1))
    sample = next(s for s in map(batches.cache.load, batches.keys) if torch.equal(s.image / 255, batch.images[0]))
    tokens = [set(map(tuple, batches.statistics.standardise(view).flatten(1).T.tolist())) for view in sample.features]
    observed = list(map(tuple, batch.observed.tolist()))
    count = sample.features.shape[2] * sample.features.shape[3]
    assert len(observed) == 2 * count
    seen = [view for view in range(6) if tokens[view] <= set(observed)]
    assert len(seen) == 2
    assert 0 not in seen
    assert sorted(observed) == sorted(t for view in seen for t in tokens[view])


def test_random_directions_keep_squared_distances(
    colours: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    batches = make(colours, replace(config, projection=PRESETS["paper"].projection), pictures, tmp_path / "c")
    a, b = torch.randn(2, 3)
    kept = [((a - b) @ batches.training(step, range(1)).projection).square().mean() for step in range(500)]
    assert float(torch.stack(kept).mean()) == pytest.approx(float((a - b).square().mean()), rel=0.1)


def test_the_papers_positions_are_one_in_each_pixel_of_a_window(
    colours: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    paper = PRESETS["paper"]
    config = replace(config, views=2, jitters=2, positions=paper.positions, kernel_size=paper.kernel_size)
    batches = make(colours, config, pictures, tmp_path / "c")
    assert batches.stride == 16
    inside = (batches.training(1, range(1)).offsets[0] + 1) / 2 * 16
    assert sorted(map(tuple, inside.long().tolist())) == [(y, x) for y in range(16) for x in range(16)]


def test_a_check_looks_at_the_same_tokens_every_time_and_never_at_the_crop_itself(batches: Batches) -> None:
    first, again = batches.check(0), batches.check(0)
    assert torch.equal(first.observed, again.observed)
    sample = batches.cache.load(batches.heldout[0])
    of_crop = batches.statistics.standardise(sample.features[0]).flatten(1).T
    assert float(torch.cdist(first.observed, of_crop).min()) > 1e-3
    assert torch.equal(first.projection, torch.eye(3))
