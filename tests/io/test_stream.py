"""Feature files written by bands of rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from featup_cli.core.errors import OutputError, ShapeError
from featup_cli.io.features import load_features
from featup_cli.io.stream import HEADER_ROOM, stream_features

FEATURES = torch.randn(37, 11, 9)  # more channels than are converted at a time


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_bands_read_back_as_the_whole_with_what_became_known_at_the_end(dtype: torch.dtype, tmp_path: Path) -> None:
    lr_features = torch.randn(37, 3, 5)
    maps = {"lr_features": lr_features, "uncertainty": None, "saliency": torch.rand(4, 4).T}
    path = tmp_path / "new" / "f.safetensors"
    with stream_features(path, shape=(37, 11, 9), dtype=dtype, maps=maps, provenance={"a": 1}) as writer:
        for top in range(0, 11, 4):
            writer.add(FEATURES[:, top : top + 4])
        writer.provenance["scores"] = {"ä": 0.5}
    loaded = load_features(path)
    assert torch.equal(loaded.features, FEATURES.to(dtype))
    assert loaded.lr_features is not None
    assert torch.equal(loaded.lr_features, lr_features.to(dtype))
    assert loaded.uncertainty is None
    assert loaded.provenance == {"a": 1, "scores": {"ä": 0.5}}


def test_factors_are_stored_in_full_precision(tmp_path: Path) -> None:
    basis, mean = torch.randn(37, 4), torch.randn(4)
    path = tmp_path / "f.safetensors"
    with stream_features(path, shape=(37, 11, 9), factors=(basis, mean), maps={}, provenance={}) as writer:
        writer.add(FEATURES)
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("basis"), basis)
        assert torch.equal(file.get_tensor("mean"), mean)
        assert torch.equal(file.get_tensor("coefficients"), FEATURES.half())


def write(path: Path, *bands: Tensor, maps: dict[str, Tensor] | None = None, **late: str) -> None:
    with stream_features(path, shape=(37, 11, 9), maps=maps or {}, provenance={}) as writer:
        for band in bands:
            writer.add(band)
        writer.provenance |= late


def test_an_incomplete_file_is_never_left(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="4 of 11 rows"):
        write(tmp_path / "f.safetensors", FEATURES[:, :4])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("band", [FEATURES[:5], FEATURES[:, :, :5], torch.zeros(37, 12, 9)])
def test_bands_of_another_shape_are_refused(band: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"band must be \[37, at most 11, 9\]"):
        write(tmp_path / "f.safetensors", band)


def test_values_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="values up to 100000, too large for float16; use --dtype bfloat16"):
        write(tmp_path / "f.safetensors", FEATURES[:, :4], torch.full((37, 2, 9), 1e5))
    assert not list(tmp_path.iterdir())


def test_maps_must_agree_on_the_channels(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="channel counts differ"):
        write(tmp_path / "f.safetensors", maps={"lr_features": torch.zeros(3, 2, 2)})


def test_provenance_that_outgrows_its_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="provenance grew"):
        write(tmp_path / "f.safetensors", FEATURES, more="x" * (HEADER_ROOM + 100))
    assert not list(tmp_path.iterdir())
