from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.distributed import Workers
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.progress import no_progress
from featup_cli.training.cache import FeatureCache, crop_size, fill_cache
from featup_cli.training.config import TrainConfig
from featup_cli.training.pictures import find_pictures


@pytest.fixture
def backbone() -> Backbone:
    return load_backbone(BackboneConfig())


def test_a_sample_holds_what_the_backbone_says_of_crop_and_views(
    backbone: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "c", backbone, replace(config, crops=2))
    first, second = cache.add(pictures / "0.png")
    sample = cache.load(first)
    assert sample.image.shape == (3, 64, 64)
    assert sample.features.shape == (3, 96, 4, 4)
    assert len(sample.views) == 3
    expected = backbone(sample.image[None].float() / 255)[0]
    torch.testing.assert_close(sample.features[0].float(), expected, atol=0.02 * float(expected.std()), rtol=0.01)
    assert not torch.equal(cache.load(second).image, sample.image)


def test_a_second_run_reads_instead_of_computing(
    backbone: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    keys = FeatureCache(tmp_path / "c", backbone, config).add(pictures / "0.png")

    def refuse(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the backbone was asked again")

    again = FeatureCache(tmp_path / "c", replace(backbone, network=refuse), replace(config, steps=99, tokens=7))
    assert again.add(pictures / "0.png") == keys


def test_samples_are_the_same_in_every_process(
    backbone: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    caches = [FeatureCache(tmp_path / name, backbone, config) for name in ("a", "b")]
    (first,), (second,) = (cache.add(pictures / "0.png") for cache in caches)
    assert caches[0].path(first).read_bytes() == caches[1].path(second).read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"views": 3}, {"crop_size": 80}, {"max_zoom": 3.0}, {"min_scale": 0.9}, {"flips": False}, {"weights_sha256": "x"}],
    ids=str,
)
def test_other_views_and_other_weights_are_other_files(
    change: dict[str, Any], backbone: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    keys = FeatureCache(tmp_path, backbone, config).add(pictures / "0.png")
    if "weights_sha256" in change:
        backbone = replace(backbone, **change)
    else:
        config = replace(config, **change)
    assert FeatureCache(tmp_path, backbone, config).add(pictures / "0.png") != keys


def test_broken_pictures_are_reported_and_the_others_kept(
    backbone: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.jpg").write_bytes(b"no picture")
    cache = FeatureCache(tmp_path / "c", backbone, config)
    readable, broken = fill_cache(cache, find_pictures([pictures]), Workers(), no_progress)
    assert len(readable) == 6
    assert len(broken) == 1
    assert "broken.jpg" in broken[0]


def test_a_damaged_file_is_named(backbone: Backbone, config: TrainConfig, pictures: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "c", backbone, config)
    (key,) = cache.add(pictures / "0.png")
    cache.path(key).write_bytes(cache.path(key).read_bytes()[:500])
    with pytest.raises(InputError, match=f"{key}.safetensors: is missing or damaged"):
        cache.load(key)


def test_crops_have_a_size_that_the_backbone_takes(backbone: Backbone) -> None:
    assert crop_size(TrainConfig(crop_size=230), replace(backbone, patch_multiple=14)) == 224
    assert crop_size(TrainConfig(crop_size=64), replace(backbone, fixed_size=(384, 384))) == 384
    with pytest.raises(UsageError, match=r"takes 224x448 pixels \(height x width\) only"):
        crop_size(TrainConfig(), replace(backbone, fixed_size=(224, 448)))
