"""Exported files are read back by what reads them: NumPy, PyTorch, h5py, and the loaders of feature fields."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import featup_cli
from featup_cli.core.errors import InputError, OutputError, UsageError
from featup_cli.exporting import source as pieces
from featup_cli.exporting.registry import FORMATS
from featup_cli.exporting.run import export
from featup_cli.io.features import load_features
from featup_cli.io.stream import save_features
from tests.exporting.views import CHANNELS, SIZE, check_format, make, make_views, provenance, random


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of the tests are written in several pieces, of several bands and of parts of a plane."""
    monkeypatch.setattr(pieces, "PIECE", 4 * CHANNELS * SIZE[1] * 4)


@pytest.fixture(params=["float16", "float32", "bfloat16", "factored"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = request.param
    dtype = torch.float16 if kind == "factored" else getattr(torch, kind)
    return make(tmp_path / "photo.safetensors", dtype=dtype, factored=kind == "factored")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return make_views(tmp_path)


def same(array: Any, expected: Tensor, tolerance: float = 2e-3) -> None:
    """Values agree up to the rounding of float16, exactly where nothing was computed."""
    values = array.float().numpy() if isinstance(array, Tensor) else np.asarray(array, np.float32)
    np.testing.assert_allclose(values, expected.float().numpy(), atol=tolerance, rtol=tolerance)


def array_dtype(file: Path) -> str:
    """NumPy knows no bfloat16: such features become float32."""
    dtype = load_features(file).features.dtype
    return "float32" if dtype in (torch.bfloat16, torch.float32) else "float16"


def test_npy(file: Path, tmp_path: Path) -> None:
    assert export([file], "npy") == [tmp_path / "photo.npy"]
    array = np.load(tmp_path / "photo.npy", mmap_mode="r")
    assert (array.shape, array.dtype.name) == ((CHANNELS, *SIZE), array_dtype(file))
    same(array, load_features(file).features)


def test_npz(file: Path, tmp_path: Path) -> None:
    export([file], "npz", output=tmp_path / "out" / "x.npz")
    stored, given = np.load(tmp_path / "out" / "x.npz"), load_features(file)
    assert set(stored) == {"features", "lr_features", "provenance"}
    assert stored["features"].dtype.name == stored["lr_features"].dtype.name == array_dtype(file)
    same(stored["features"], given.features)
    assert given.lr_features is not None
    same(stored["lr_features"], given.lr_features)
    assert json.loads(str(stored["provenance"])) == given.provenance


@pytest.mark.parametrize("mapped", [False, True])
def test_pt(file: Path, tmp_path: Path, mapped: bool) -> None:
    export([file], "pt")
    stored = torch.load(tmp_path / "photo.pt", weights_only=True, mmap=mapped)
    given = load_features(file)
    assert set(stored) == {"features", "lr_features", "provenance"}
    assert (stored["features"].dtype, stored["features"].shape) == (given.features.dtype, given.features.shape)
    assert stored["features"].is_contiguous()
    assert stored["features"].data_ptr() % 64 == 0  # large reads from a mapped file are quick only then
    same(stored["features"], given.features)
    assert given.lr_features is not None
    assert stored["lr_features"].equal(given.lr_features)
    assert stored["provenance"] == given.provenance


def test_hdf5(file: Path, tmp_path: Path) -> None:
    export([file], "hdf5")
    given = load_features(file)
    with h5py.File(tmp_path / "photo.h5") as stored:
        assert set(stored) == {"features", "lr_features", "provenance"}
        assert stored["features"].dtype.name == array_dtype(file)
        same(stored["features"][:, 3:7, 2:], given.features[:, 3:7, 2:])
        same(stored["features"][()], given.features)
        assert json.loads(stored["provenance"].asstr()[()]) == given.provenance


def test_feature_3dgs(file: Path, tmp_path: Path) -> None:
    written = export([file], "feature-3dgs", output=tmp_path / "scene")
    assert written == [tmp_path / "scene" / "photo_fmap_CxHxW.pt"]
    tensor = torch.load(written[0], weights_only=True)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float16, (CHANNELS, *SIZE))
    same(tensor, load_features(file).features)


def test_feature_3dgs_names_follow_the_picture_up_to_its_first_dot(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_features(file, features=random(3, 4, 5), provenance=provenance("frame.01.crop"))
    assert export([file], "feature-3dgs")[0].name == "frame_fmap_CxHxW.pt"
    save_features(file, features=random(3, 4, 5), provenance={})
    assert export([file], "feature-3dgs")[0].name == "other_fmap_CxHxW.pt"


def test_lerf_takes_the_cache(files: list[Path], tmp_path: Path) -> None:
    assert export(files, "lerf", output=tmp_path / "outputs") == [tmp_path / "outputs" / "dino.npy"]
    # What LERF's DINO loader compares, and how it looks pixels up.
    assert json.loads((tmp_path / "outputs" / "dino.info").read_text()) == {"image_shape": [26, 44]}
    array = torch.from_numpy(np.load(tmp_path / "outputs" / "dino.npy"))
    assert tuple(array.shape) == (3, *SIZE, CHANNELS)
    for view, file in zip(array, files, strict=True):
        same(view, load_features(file).features.permute(1, 2, 0))


def test_f3rm_takes_the_cache(files: list[Path], tmp_path: Path) -> None:
    written = export(files, "f3rm", output=tmp_path / "scene")
    assert written == [tmp_path / "scene" / "f3rm_dino_features.pt"]
    # F3RM compares the names with a list of Path, and trusts its own cache.
    with torch.serialization.safe_globals([type(Path())]):
        cache = torch.load(written[0], weights_only=True)
    assert cache["image_fnames"] == [Path(f"photos/{name}.jpg") for name in "cab"]
    assert cache["args"] == {
        "model_type": "dino_vits8", "load_size": 224, "stride": 4, "facet": "key", "layer": 11, "bin": False,
    }  # fmt: skip
    assert tuple(cache["features"].shape) == (3, *SIZE, CHANNELS)
    assert [facts["input"]["path"] for facts in cache["provenance"]] == [f"photos/{name}.jpg" for name in "cab"]
    for view, file in zip(cache["features"], files, strict=True):
        same(view, load_features(file).features.permute(1, 2, 0))


def test_f3rm_is_told_features_of_clip_from_others(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_features(file, features=random(3, *SIZE), provenance=provenance("a", "vit_base_patch16_clip_224"))
    (written,) = export([file], "f3rm")
    assert written.name == "f3rm_clip_features.pt"
    with torch.serialization.safe_globals([type(Path())]):
        assert torch.load(written, weights_only=True)["args"]["model_name"] == "ViT-L/14@336px"


def test_f3rm_refuses_another_aspect_ratio(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_features(file, features=random(3, 20, 20), provenance=provenance("a"))
    with pytest.raises(InputError, match="--output-size image"):
        export([file], "f3rm")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("to", ["lerf", "f3rm"])
def test_joined_files_must_agree_and_know_their_picture(files: list[Path], tmp_path: Path, to: str) -> None:
    odd = tmp_path / "odd.safetensors"
    for facts, shape, says in (
        (provenance("odd"), (CHANNELS, 26, 44), "must agree"),
        (provenance("odd") | {"input": {"path": "odd.jpg", "size": [13, 22]}}, (CHANNELS, *SIZE), "must agree"),
        ({"input": {"size": "large"}}, (CHANNELS, *SIZE), "the size of its picture"),
        ({}, (CHANNELS, *SIZE), "the size of its picture"),
    ):
        save_features(odd, features=random(*shape), provenance=facts)
        with pytest.raises(InputError, match=says):
            export([*files, odd], to, output=tmp_path / "out")
    make(odd, dtype=torch.float32)
    with pytest.raises(InputError, match="give --dtype"):
        export([*files, odd], to, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", list(FORMATS))
def test_every_format_keeps_features_and_shares_one_basis_that_is_stored(tmp_path: Path, to: str) -> None:
    check_format(to, tmp_path)


def test_components_keep_low_resolution_features_comparable(tmp_path: Path) -> None:
    file = make(tmp_path / "a.safetensors", dtype=torch.float32)
    stored = np.load(export([file], "npz", components=4)[0])
    lr_features = load_features(file).lr_features
    assert lr_features is not None
    centred = lr_features.numpy() - stored["pca_mean"][:, None, None]
    np.testing.assert_allclose(stored["lr_features"], np.einsum("kc,chw->khw", stored["pca_basis"], centred), atol=1e-5)


def test_all_components_lose_nothing(tmp_path: Path) -> None:
    file = make(tmp_path / "a.safetensors", dtype=torch.float32)
    stored = np.load(export([file], "npz", components=CHANNELS)[0])
    whole = np.einsum("kc,khw->chw", stored["pca_basis"], stored["features"]) + stored["pca_mean"][:, None, None]
    np.testing.assert_allclose(whole, load_features(file).features.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"to": "mat"}, "choose from npy"),
        ({"to": "npy", "dtype": "int8"}, "choose float16"),
        ({"to": "npy", "dtype": "bfloat16"}, "can't hold bfloat16"),
        ({"to": "npy", "components": 0}, "1 or more"),
        ({"to": "npy", "components": CHANNELS + 1}, "have 9 channels"),
        ({"to": "npy", "output": "one.npy"}, "is one file name for 3 files"),
    ],
    ids=str,
)
def test_options_that_can_not_be_obeyed(files: list[Path], tmp_path: Path, options: dict[str, Any], says: str) -> None:
    if "output" in options:
        options = options | {"output": tmp_path / options["output"]}
    with pytest.raises(UsageError, match=says):
        export(files, **options)


def test_files_of_other_channels_share_no_basis(files: list[Path], tmp_path: Path) -> None:
    save_features(tmp_path / "few.safetensors", features=random(5, 6, 7), provenance={})
    with pytest.raises(InputError, match=r"few.safetensors: has 5 channels but .* has 9"):
        export([*files, tmp_path / "few.safetensors"], "npy", components=2)


def test_outputs_that_clash_exist_or_are_inputs_are_refused_before_any_work(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    twin = make(tmp_path / "sub" / "a.safetensors")
    with pytest.raises(UsageError, match="two outputs would have this name"):
        export([*files, twin], "npy", output=tmp_path / "out")
    (tmp_path / "a.npy").write_text("precious")
    with pytest.raises(UsageError, match=r"a.npy: exists already; give --overwrite"):
        export(files, "npy")
    assert not (tmp_path / "c.npy").exists()
    assert (tmp_path / "a.npy").read_text() == "precious"
    export(files, "npy", overwrite=True)
    assert np.load(tmp_path / "a.npy").shape == (CHANNELS, *SIZE)
    alias = tmp_path / "x.npz"
    alias.symlink_to(files[0])
    with pytest.raises(UsageError, match="but it is an input"):
        export(files[:1], "npz", output=alias, overwrite=True)


@pytest.mark.parametrize("to", ["lerf", "feature-3dgs", "npy"])
def test_what_is_written_beside_is_not_replaced_either(files: list[Path], tmp_path: Path, to: str) -> None:
    name = {"lerf": "dino.info", "feature-3dgs": "pca_dict.pt", "npy": "pca.npz"}[to]
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match=f"{name}: exists already"):
        export(files, to, components=2)
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("to", list(FORMATS))
def test_a_folder_that_can_not_be_written_is_one_line(files: list[Path], tmp_path: Path, to: str) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        export(files, to, output=blocker / "out")


def test_a_full_disk_is_found_before_the_work(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match="disk"):
        export([file], "npy")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.safetensors"]


@pytest.mark.parametrize("to", ["npy", "npz", "pt", "hdf5", "feature-3dgs"])
def test_a_bad_file_does_not_stop_the_others(files: list[Path], tmp_path: Path, to: str) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(files[0].read_bytes()[:200])
    failed: list[Path] = []
    given = [files[0], damaged, tmp_path / "missing.safetensors", files[1]]
    written = export(given, to, output=tmp_path / "out", on_failed=lambda path, _: failed.append(path))
    assert len(written) == 2
    assert failed == given[1:3]
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    with pytest.raises(InputError, match="damaged"):
        export(given, to, output=tmp_path / "again")


@pytest.mark.parametrize("to", ["lerf", "f3rm"])
def test_joined_files_fail_together(files: list[Path], tmp_path: Path, to: str) -> None:
    (tmp_path / "bad.safetensors").write_text("no features")
    with pytest.raises(InputError, match=r"bad\.safetensors"):
        export([*files, tmp_path / "bad.safetensors"], to, output=tmp_path / "out", on_failed=print)


@pytest.mark.parametrize("to", list(FORMATS))
def test_values_that_do_not_fit_leave_nothing_behind(tmp_path: Path, to: str) -> None:
    file = tmp_path / "a.safetensors"
    features = random(CHANNELS, *SIZE)
    features[-1, -1, -1] = 1e6
    save_features(file, features=features, provenance=provenance("a"), dtype=torch.float32)
    with pytest.raises(OutputError, match=r"too large for float16"):
        export([file], to, output=tmp_path / "out", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_missing_h5py_names_the_extra(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)  # importing it raises ImportError
    with pytest.raises(UsageError, match=r"pip install 'featup-cli\[hdf5\]'"):
        export([file], "hdf5")


def test_the_package_offers_it_by_both_names(file: Path) -> None:
    assert featup_cli.export([file], "npy")[0].exists()
    assert featup_cli.export_features is featup_cli.export


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    facts = provenance("a") | {"input": {"path": "a.jpg", "size": [512, 1024]}}
    save_features(tmp_path / "small.safetensors", features=torch.ones(96, 8, 16), provenance=facts)
    save_features(tmp_path / "large.safetensors", features=torch.ones(96, 512, 1024), provenance=facts)  # 96 MiB
    program = (
        "import sys\nfrom featup_cli import export\nfrom featup_cli.exporting.registry import FORMATS\n"
        "def peak():\n"
        "    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM')) / 1024\n"
        "for name in ('small', 'large'):\n"
        "    before = peak()\n"
        "    for to in FORMATS:\n"
        "        export([f'{sys.argv[1]}/{name}.safetensors'], to, output=f'{sys.argv[1]}/{name}/{to}')\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert float(done.stdout) < 64
