"""Slices of a mapped file are the slices of the features, and only sound files are opened."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import featup_cli
from featup_cli.core.errors import InputError
from featup_cli.io.features import load_features
from featup_cli.io.mapped import open_features
from featup_cli.io.stream import save_features

PROVENANCE = {"input": {"path": "a.jpg", "size": [30, 40]}}
SLICES = [
    np.s_[...], np.s_[:], np.s_[:, 2:5, 3:9], np.s_[0], np.s_[-1], np.s_[:, -1], np.s_[..., 4], np.s_[1, ..., 2],
    np.s_[1:3, ::2, 8:1:-3], np.s_[::-1], np.s_[2, 3, 4], np.s_[:, 5:5], np.s_[:, 100:], np.s_[np.int64(1), :, -3:],
]  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("index", SLICES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_slices_follow_numpy(path: Path, index: Any, dtype: torch.dtype) -> None:
    features = random(5, 7, 11).to(dtype)
    save_features(path, features=features, lr_features=random(5, 2, 3), provenance=PROVENANCE, dtype=dtype)
    with open_features(path) as mapped:
        part = mapped[index]
    expected = np.asarray(features.float().numpy()[index])
    assert part.dtype == dtype
    assert tuple(part.shape) == expected.shape
    np.testing.assert_array_equal(part.float().numpy(), expected)


@pytest.mark.parametrize("index", SLICES, ids=str)
def test_factored_files_are_expanded_on_the_slice(path: Path, index: Any) -> None:
    save_features(path, random(3, 7, 11), factors=(random(3, 5, seed=1), random(5, seed=2)), provenance={})
    whole = load_features(path).features.float().numpy()
    with open_features(path) as mapped:
        assert mapped.shape == (5, 7, 11)
        assert (mapped.storage, mapped.dtype, mapped.stored_dtype) == ("factored", torch.float32, torch.float16)
        part = mapped[index]
    assert tuple(part.shape) == np.asarray(whole[index]).shape
    np.testing.assert_allclose(part.numpy(), whole[index], atol=5e-3)


def test_factored_sums_beyond_float16_are_kept(path: Path) -> None:
    save_features(path, torch.full((1, 2, 2), 1e3), factors=(torch.full((1, 3), 1e3), torch.zeros(3)), provenance={})
    assert open_features(path)[:, 1].equal(torch.full((3, 2), 1e6))


def test_facts_and_other_maps_are_at_hand(path: Path) -> None:
    maps = {"lr_features": random(5, 2, 3), "uncertainty": random(2, 3)}
    save_features(path, features=random(5, 7, 11), **maps, provenance=PROVENANCE, dtype=torch.float32)
    with featup_cli.open_features(str(path)) as mapped:
        assert (mapped.shape, mapped.dtype, mapped.storage) == ((5, 7, 11), torch.float32, "full")
        assert mapped.provenance == PROVENANCE
        assert mapped.lr_features is not None
        assert mapped.lr_features.equal(maps["lr_features"])
        uncertainty = mapped.read("uncertainty")
        assert uncertainty is not None
        assert uncertainty.equal(maps["uncertainty"])
        assert mapped.read("saliency") is None
        with pytest.raises(KeyError, match="features"):
            mapped.read("features")


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_one_map_of_other_programs_is_found(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = random(*shape).to(dtype)
    save_file({"tokens": tensor, "count": torch.zeros(2, 2, 2, dtype=torch.int64)}, path, {"odd": "x" * 3})
    with open_features(path) as mapped:
        assert mapped[1:, :, -1].equal(tensor.reshape(3, 4, 5)[1:, :, -1])
        assert mapped.provenance == {}
        assert mapped.lr_features is None


def test_tensors_outlive_the_file_and_a_closed_file_says_so(path: Path) -> None:
    save_features(path, features=random(3, 4, 5), provenance={}, dtype=torch.float32)
    with open_features(path) as mapped:
        part = mapped[0]
    part += 1
    assert part.equal(random(3, 4, 5)[0] + 1)
    assert load_features(path).features.equal(random(3, 4, 5))
    mapped.close()
    with pytest.raises(ValueError, match="was closed"):
        mapped[0]


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (3, IndexError), (np.s_[0, -5], IndexError), (np.s_[0, 0, 0, 0], IndexError), (np.s_[..., 0, ...], IndexError),
        (None, TypeError), (True, TypeError), (1.0, TypeError), (np.s_[[0, 1]], TypeError), ("features", TypeError),
        (np.array([0, 1]), TypeError),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("factored", [False, True])
def test_other_indices_are_refused(path: Path, index: Any, error: type[Exception], factored: bool) -> None:
    given: dict[str, Any] = {"features": random(2, 4, 5), "factors": (random(2, 3), random(3))}
    save_features(path, **(given if factored else {"features": random(3, 4, 5)}), provenance={})
    with open_features(path) as mapped, pytest.raises(error):
        mapped[index]


def test_values_are_checked_where_they_are_read(path: Path) -> None:
    features = random(3, 4, 5)
    features[1, 2, 3] = float("nan")
    save_file({"features": features}, path)
    with open_features(path) as mapped:
        assert mapped[0].isfinite().all()
        with pytest.raises(InputError, match="features holds 1 NaN or infinite values"):
            mapped[:, 2:]


def header(entries: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"", b"text that is no feature file", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", b"PK\x03\x04" + bytes(60),
        header({}, b""), header({"features": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        header({"features": {"dtype": "I32", "shape": [1, 1, 2], "data_offsets": [0, 8]}}, bytes(8)),
        header({"features": {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0, 8]}}, bytes(7)),
        header({"features": {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [8, 16]}}, bytes(16)),
        header({"features": {"dtype": "F32", "shape": [1, 1, 2**40], "data_offsets": [0, 2**42]}}, bytes(8)),
        header({"__metadata__": {"featup": "[1]"}, "features": {"dtype": "F32", "shape": [1, 1, 1],
                                                              "data_offsets": [0, 4]}}, bytes(4)),
    ],
)  # fmt: skip
def test_broken_files_are_refused_as_load_features_does(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    messages = []
    for read in (load_features, open_features):
        with pytest.raises(InputError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]


def test_a_missing_file_a_folder_and_a_truncated_file_are_refused(path: Path, tmp_path: Path) -> None:
    save_features(path, features=random(3, 4, 5), provenance={})
    path.write_bytes(path.read_bytes()[:-1])
    for bad in (path, tmp_path, tmp_path / "missing.safetensors"):
        with pytest.raises(InputError, match=bad.name):
            open_features(bad)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_small_slice_of_a_large_file_takes_little_memory(path: Path) -> None:
    save_features(path, features=torch.ones(64, 1024, 512), provenance={})  # 64 MiB
    program = (
        "import sys\nfrom featup_cli.io.mapped import open_features\n"
        "def peak():\n"
        "    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM')) / 1024\n"
        "mapped = open_features(sys.argv[1])\nmapped[0, 0, 0]\nbefore = peak()\n"
        "for y in range(0, 1024, 64):\n    assert mapped[:, y:y + 8].sum() == 64 * 8 * 512\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert float(done.stdout) < 32
