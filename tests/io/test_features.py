"""Feature files come back as they were written; whatever else is given is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from featup_cli.core.errors import InputError, OutputError, ShapeError
from featup_cli.io.atomic import atomic_path, check_writable, parent_folder
from featup_cli.io.features import load_features
from featup_cli.io.header import read_provenance
from featup_cli.io.stream import save_features

PROVENANCE = {"input": {"path": "a.jpg", "size": [30, 40]}, "backbone": "vit", "loss": 0.25, "word": "Größe"}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_features(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_round_trip(path, dtype):
    maps = {"features": random(5, 6, 7), "lr_features": random(5, 2, 3, seed=1), "uncertainty": random(2, 3).exp()}
    extras = {"saliency": random(6, 7), "kernels": random(2, 9, 9)}
    save_features(path, **maps, **extras, provenance=PROVENANCE, dtype=dtype)
    file = load_features(path)
    for name, tensor in (maps | extras).items():
        stored = getattr(file, name)
        assert stored.dtype == dtype
        assert stored.equal(tensor.to(dtype)), name
    assert file.provenance == PROVENANCE == read_provenance(path)
    assert file.path == path


def test_float16_is_the_default_and_the_rest_is_optional(path):
    save_features(path, features=random(3, 4, 5), provenance={})
    file = load_features(path)
    assert file.features.dtype == torch.float16
    assert (file.lr_features, file.uncertainty, file.saliency, file.kernels) == (None, None, None, None)
    assert file.provenance == {}


def test_provenance_takes_paths_and_tensors_need_not_be_contiguous_or_separate(path):
    features = random(6, 5, 4).permute(2, 1, 0).requires_grad_()
    save_features(path, features=features, lr_features=features, provenance={"path": Path("x")}, dtype=torch.float32)
    file = load_features(path)
    assert file.features.equal(features.detach())
    assert file.lr_features is not None
    assert file.lr_features.equal(file.features)
    assert file.provenance == {"path": "x"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_factored_storage_is_smaller_and_expands(path, tmp_path, dtype):
    coefficients, basis, mean = random(3, 70, 40), random(3, 64, seed=1), random(64, seed=2)
    features = torch.einsum("khw,kc->chw", coefficients, basis) + mean[:, None, None]
    save_features(path, coefficients, factors=(basis, mean), lr_features=random(64, 2, 2), provenance={}, dtype=dtype)
    file = load_features(path)
    assert file.features.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(file.features.float(), features, atol=tolerance, rtol=tolerance)
    save_features(tmp_path / "full.safetensors", features=features, provenance={}, dtype=dtype)
    assert path.stat().st_size * 8 < (tmp_path / "full.safetensors").stat().st_size


def test_factored_storage_that_overflows_its_dtype_expands_to_float32(path):
    save_features(path, torch.full((1, 2, 2), 1e3), factors=(torch.full((1, 3), 1e3), torch.zeros(3)), provenance={})
    assert load_features(path).features.equal(torch.full((3, 2, 2), 1e6))


def test_values_too_large_for_float16_name_the_way_out(path):
    features = torch.full((2, 3, 3), 65504.0)
    save_features(path, features=features, provenance={})
    for large in (65505.0, -1e6):
        features[1, 2, 2] = large
        with pytest.raises(OutputError, match=r"too large for float16; use --dtype bfloat16 or --dtype float32"):
            save_features(path, features=features, provenance={})
    save_features(path, features=features, provenance={}, dtype=torch.bfloat16)
    assert load_features(path).features.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_are_not_written(path, bad):
    features = random(40, 3, 3)
    features[33, 1, :2] = bad
    with pytest.raises(OutputError, match="features holds 2 NaN or infinite values"):
        save_features(path, features=features, provenance={})
    assert not path.exists()


@pytest.mark.parametrize(
    "given",
    [
        {"features": random(3, 4)},
        {"features": random(3, 0, 4)},
        {"features": random(3, 4, 4), "lr_features": random(4, 2, 2)},
        {"features": random(3, 4, 4), "uncertainty": random(1, 2, 2)},
        {"features": random(3, 4, 4), "other": random(2)},
        {"features": random(3, 4, 4), "kernels": random(3, 5, 5)},
        {"features": random(2, 4, 4), "factors": (random(1, 3), random(3))},
        {"features": random(1, 4, 4), "factors": (random(1, 3), random(4))},
    ],
)
def test_wrong_shapes_are_not_written(path, given):
    with pytest.raises(ShapeError):
        save_features(path, **given, provenance={})
    assert not path.exists()


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_reads_one_map_of_any_name_from_other_programs(path, shape, dtype):
    tensor = random(*shape).to(dtype)
    save_file({"dinov3 tokens": tensor, "cls": random(3), "count": torch.zeros(2, 2, 2, dtype=torch.int64)}, path)
    file = load_features(path)
    assert file.features.equal(tensor.reshape(3, 4, 5))
    assert file.features.dtype == dtype
    assert file.provenance == {} == read_provenance(path)


def test_features_by_name_come_before_other_maps(path):
    save_file({"features": random(3, 4, 5), "attention": random(6, 4, 5), "lr_features": random(1, 3, 2, 2)}, path)
    file = load_features(path)
    assert file.features.shape == (3, 4, 5)
    assert file.lr_features is not None
    assert file.lr_features.shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a": random(3, 4, 5), "b": random(3, 4, 5)}, "name the one [C, H, W] tensor `features`"),
        ({"layer.weight": random(3, 4), "layer.bias": random(3)}, "name the one [C, H, W] tensor `features`"),
        ({"lr_features": random(3, 4, 5), "uncertainty": random(4, 5)}, "holds no such tensor"),
        ({f"w{i}": random(2) for i in range(9)}, ", ..."),
        ({"features": random(3, 4)}, "features is [3, 4] but must be [C H W]"),
        ({"features": random(2, 3, 4, 5)}, "features is [2, 3, 4, 5] but must be [C H W]"),
        ({"tokens": random(196, 384)}, "tokens is [196, 384] but must be [C H W]"),
        ({"features": torch.ones(3, 4, 5, dtype=torch.int32)}, "features has dtype I32"),
        ({"x": torch.ones(3, 4, 5, dtype=torch.uint8)}, "x has dtype U8"),
        ({"features": torch.ones(3, 0, 5)}, "features is [3, 0, 5] and holds no values"),
        ({"features": torch.tensor([1, float("nan"), float("inf")]).reshape(3, 1, 1)}, "features holds 2 NaN"),
        ({"features": random(3, 4, 5), "lr_features": random(2, 4, 5)}, "features 3, lr_features 2"),
        ({"features": random(3, 4, 5), "lr_features": torch.full((3, 1, 1), torch.inf)}, "lr_features holds 3 NaN"),
        ({"features": random(3, 4, 5), "uncertainty": random(3, 4, 5)}, "uncertainty is [3, 4, 5]"),
        ({"features": random(3, 4, 5), "kernels": random(3, 4, 4)}, "must be 1 or 2 kernels"),
        ({"coefficients": random(2, 4, 5), "basis": random(3, 8), "mean": random(8)}, "2 components but basis 3"),
        ({"coefficients": random(2, 4, 5), "basis": random(2, 8), "mean": random(7)}, "basis 8, mean 7"),
        ({"coefficients": random(2, 4, 5), "basis": random(8), "mean": random(8)}, "basis is [8]"),
    ],
)
def test_wrong_contents_are_refused(path, tensors, reason):
    save_file(tensors, path)
    assert reason in refused(path)


@pytest.mark.parametrize("text", ["{not json", "[1, 2]", "null", "[" * 100_000], ids=["cut", "list", "null", "deep"])
def test_broken_provenance_is_refused(path, text):
    save_file({"features": random(3, 4, 5)}, path, {"featup": text})
    assert "not a JSON object" in refused(path)
    with pytest.raises(InputError, match="not a JSON object"):
        read_provenance(path)


def container(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"abc", "is not a safetensors file"),
        (b"words, and nothing but words, for as long as it takes", "is not a safetensors file"),
        (np.random.default_rng(0).bytes(4096), "is not a safetensors file"),
        (container(b"{}", length=10**15), "is not a safetensors file"),
        (container(b"{}", length=100_000_001), "is not a safetensors file"),
        (container(b"{}", length=5000), "is cut short inside its header"),
        (container(b"{abc"), "is damaged"),
        (container(b"{\xff\xff"), "is damaged"),
        (container(b"{}"), "holds no such tensor"),
        (container(json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode(), b"1234"), "is "),
        (container(json.dumps({"x": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}).encode(), b"1234"), "is "),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "is a NumPy array"),
    ],
)
def test_broken_files_are_refused(path, data, reason):
    path.write_bytes(data)
    assert reason in refused(path)
    if "holds" not in reason:
        with pytest.raises(InputError):
            read_provenance(path)


@pytest.mark.parametrize("cut", [4, 60, -1])
def test_truncated_files_are_refused(path, cut):
    save_features(path, features=random(3, 4, 5), provenance=PROVENANCE)
    path.write_bytes(path.read_bytes()[:cut])
    message = refused(path)
    assert "cut short" in message or "not a safetensors file" in message


def test_a_header_of_pickle_like_length_is_still_read(path):
    # 0x280 = 640 is a valid header length whose first two bytes are those of a pickle.
    save_file({"x": random(3, 4, 5)}, path, {"pad": ""})
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    save_file({"x": random(3, 4, 5)}, path, {"pad": "." * (640 - length)})
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert load_features(path).features.shape == (3, 4, 5)


class Trap:
    """Unpickling this leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("writer", ["torch", "torch-legacy", "pickle", "npz"])
def test_pickles_are_named_and_never_run(path, tmp_path, writer):
    trap = Trap(tmp_path / "mark")
    if writer == "pickle":
        path.write_bytes(pickle.dumps(trap))
    elif writer == "npz":
        np.savez(path.open("wb"), np.array([trap]))
    else:
        torch.save({"features": trap}, path, _use_new_zipfile_serialization=writer == "torch")
    message = refused(path)
    assert "pickle" in message
    assert "safetensors.torch.save_file" in message
    assert not (tmp_path / "mark").exists()


def test_missing_folder_and_unreadable(tmp_path, path, monkeypatch):
    assert "no such file" in refused(tmp_path / "missing.safetensors")
    assert "is a folder" in refused(tmp_path)
    save_features(path, features=random(3, 4, 5), provenance={})

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "Permission denied" in refused(path)


def test_atomic_replaces_only_on_success(tmp_path):
    target = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        assert temporary.name.startswith(".")
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"

    def write_half(failure: type[BaseException]) -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("two")
            raise failure

    for failure in (KeyboardInterrupt, ValueError):
        with pytest.raises(failure):
            write_half(failure)
    assert target.read_text() == "one"
    assert [file.name for file in target.parent.iterdir()] == ["a.txt"]


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    def fail(file: Path) -> None:
        assert file.parent.is_dir()
        raise OSError(28, "No space left on device")

    (tmp_path / "there").mkdir()
    for folder in ("a/b", "there/b", "there"):
        with pytest.raises(OutputError), atomic_path(tmp_path / folder / "a.txt") as temporary:
            fail(temporary)
        check_writable(tmp_path / folder / "a.txt")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there"]
    with parent_folder(tmp_path / "a" / "a.txt"):
        (tmp_path / "a" / "kept").touch()
    assert (tmp_path / "a" / "kept").exists()


def test_written_files_follow_the_umask(path):
    before = os.umask(0o027)
    try:
        save_features(path, features=random(3, 4, 5), provenance={})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_atomic_refuses_what_it_can_not_write(tmp_path, monkeypatch):
    def message(path: Path) -> str:
        with pytest.raises(OutputError) as caught, atomic_path(path) as temporary:
            temporary.write_text("x")
        assert str(caught.value).startswith(f"{path}: can't be written: ")
        return str(caught.value)

    assert "it is a folder" in message(tmp_path)
    (tmp_path / "file").touch()
    assert "directory" in message(tmp_path / "file" / "a.txt") or "exists" in message(tmp_path / "file" / "a.txt")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in message(tmp_path / "pipe")
    with atomic_path(tmp_path / ("x" * 240 + ".txt")) as temporary:  # long, but legal: the hidden name must be too
        temporary.write_text("x")

    def deny(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    assert "Permission denied" in message(tmp_path / "a.txt")


def test_full_disk_is_one_line_and_leaves_nothing(path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    save_features(path, features=random(3, 4, 5), provenance={"run": 1})
    with pytest.raises(OutputError, match="No space left on device"), atomic_path(path):
        full()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_features(path, features=random(3, 4, 5), provenance={"run": 2})
    assert list(path.parent.iterdir()) == [path]
    assert read_provenance(path) == {"run": 1}
