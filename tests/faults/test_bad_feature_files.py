"""Whatever is given in place of a feature file or a fitted model: one line that names it, and never its code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from featup_cli.io.features import load_features
from featup_cli.io.mapped import open_features
from tests.faults import feature_files as f
from tests.faults.commands import run
from tests.faults.mutations import feature_files
from tests.faults.pictures import MP4, PHOTO, encoded, link_to, nothing

DEEP = b"[" * 100_000
NAN = torch.full((3, 2, 2), float("nan"))
MAP = torch.rand(3, 2, 2)
TWICE = b'{"features":{"dtype":"F32","shape":[1,1,2],"data_offsets":[0,8]},' \
        b'"features":{"dtype":"F32","shape":[1,1,4],"data_offsets":[0,16]}}'  # fmt: skip
OVERLAP = {"features": f.entry([1, 1, 2], 0, 8), "lr_features": f.entry([1, 1, 2], 4, 12)}
HOLE = {"features": f.entry([1, 1, 2], 0, 8), "lr_features": f.entry([1, 1, 1], 12, 16)}

# What it is, what makes it, and words of the line that refuses it.
FILES: list[tuple[str, f.Maker, str]] = [
    # No file that could be read.
    ("missing", nothing, "no such file"),
    ("empty", Path.touch, "is empty"),
    ("folder", Path.mkdir, "is a folder"),
    ("dangling link", link_to("nowhere"), "no such file"),
    ("link to itself", link_to("file.safetensors"), "symbolic links"),
    ("pipe", os.mkfifo, "is a pipe"),
    ("endless device", link_to("/dev/zero"), "device"),
    # Cut at every boundary of the format.
    ("inside the length", f.cut(4), "is not a safetensors file"),
    ("after the length", f.cut(8), "is not a safetensors file"),
    ("after one byte of the header", f.cut(9), "cut short inside its header"),
    ("inside the header", f.cut(100), "cut short inside its header"),
    ("one byte before the end of the header", f.cut(-2), "cut short inside its header"),
    ("after the header", f.cut(-1), "cut short"),
    ("one byte before the end", f.cut_data(1), "cut short"),
    ("one byte too many", f.cut_data(-1), "is damaged"),
    # A header that lies about its length.
    ("length 0", f.container({}, length=0), ""),
    ("length 1", f.container({"features": 1}, length=1), "is damaged"),
    ("length beyond the file", f.container({}, length=5000), "cut short inside its header"),
    ("length beyond the format", f.container({}, length=10**8 + 1), "is not a safetensors file"),
    ("length of 2**64 - 1", f.container({}, length=2**64 - 1), "is not a safetensors file"),
    # A header that is no such JSON.
    ("no JSON", f.container(b"{features"), "is damaged"),
    ("no UTF-8", f.container(b'{"\xff": 1}'), "is damaged"),
    ("deep JSON", f.container(b'{"a":' + DEEP), "is damaged"),
    ("a list", f.container([]), "is not a safetensors file"),
    ("no tensor", f.container({}), "no such tensor"),
    ("a tensor without shape", f.container({"features": {"dtype": "F32"}}), "is damaged"),
    # Offsets, types and sizes that disagree.
    ("overlapping tensors", f.container(OVERLAP, bytes(12)), "is damaged"),
    ("a hole between tensors", f.container(HOLE, bytes(16)), "is damaged"),
    ("offsets beyond the file", f.one([1, 1, 400], 0, 1600), "cut short"),
    ("offsets backwards", f.one([1, 1, 4], 16, 0), "is damaged"),
    ("negative offsets", f.one([1, 1, 4], -16, 0), "is damaged"),
    ("fractional offsets", f.one([1, 1, 4], 0, 16.5), "is damaged"),
    ("offsets in words", f.one([1, 1, 4], "0", "16"), "is damaged"),
    ("half as many bytes as values", f.one([1, 1, 8], 0, 16), "is damaged"),
    ("an unknown type", f.one([1, 1, 4], 0, 16, "F33"), "is damaged"),
    ("integers", f.one([1, 1, 4], 0, 16, "I32"), "dtype I32"),
    ("8-bit floats", f.one([1, 4, 4], 0, 16, "F8_E4M3"), "dtype F8_E4M3"),
    ("a huge shape", f.one([2**40, 1, 1], 0, 2**42), "cut short"),
    ("a shape beyond 64 bits", f.one([2**32, 2**32, 4], 0, 16), "is damaged"),
    ("a negative shape", f.one([-1, -1, 4], 0, 16), "is damaged"),
    ("a terabyte of another type", f.sparse, ""),
    ("no values", f.one([3, 0, 2], 0, 0, data=0), "holds no values"),
    ("two axes", f.one([2, 2], 0, 16), "must be [C H W]"),
    ("other channels", f.tensors(features=MAP, lr_features=MAP[:2].clone()), "channel counts differ"),
    ("several maps", f.tensors(a=MAP, b=MAP.clone()), "name the one [C, H, W] tensor"),
    ("odd names", f.tensors(**{"a\n\x1b[31m": MAP, "b\0": MAP.clone()}), "name the one [C, H, W] tensor"),
    ("deep provenance", f.tensors({"featup": '{"a":' + "[" * 100_000}, features=MAP), "not a JSON object"),
    ("sound but deep provenance", f.tensors({"featup": '{"a":' * 500 + "1" + "}" * 500}, features=MAP), "or too deep"),
    ("provenance that is a list", f.tensors({"featup": "[1]"}, features=MAP), "not a JSON object"),
    # Other formats.
    ("pickle", f.pickled("pickle"), "is a pickle or zip archive"),
    ("torch file", f.pickled("torch"), "is a pickle or zip archive"),
    ("old torch file", f.pickled("torch-legacy"), "is a pickle or zip archive"),
    ("npz of objects", f.pickled("npz"), "is a pickle or zip archive"),
    ("zip bomb", f.holding(f.zip_bomb()), "is a pickle or zip archive"),
    ("npy", f.holding(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}"), "is a NumPy array"),
    ("text", f.holding(b"no features, only words\n" * 9), "is not a safetensors file"),
    ("picture", f.holding(encoded(PHOTO, "PNG")), "is not a safetensors file"),
    ("video", f.holding(MP4), "is not a safetensors file"),
    ("zeros", f.holding(bytes(4000)), "is not a safetensors file"),
]  # fmt: skip
# Files whose header is sound: their values are not, which `info` does not read.
VALUES: list[tuple[str, f.Maker, str]] = [
    ("NaN", f.tensors(features=NAN), "NaN"),
    ("one infinity", f.tensors(features=torch.tensor([[[1.0, torch.inf]]])), "1 NaN or infinite"),
]
MODELS: list[tuple[str, f.Maker, str]] = [
    *((name, maker, "") for name, maker, _ in FILES),
    ("features", f.holding(feature_files()["full"]), "is not a fitted model"),
    ("no settings", f.model(config={}), "fit it again"),
    ("unknown settings", f.model(config={"layerz": 3}), "fit it again"),
    ("no width", f.model(hidden=-1), "unusable settings"),
    ("settings in words", f.model(hidden="four"), "fit the model again"),
    ("a huge width", f.model(hidden=10**6), "fit it again"),
    ("a huge number of layers", f.model(layers=10**9), "but it holds"),
    ("a huge number of frequencies", f.model(frequencies=10**15), "fit it again"),
    ("no network size", f.model(network_size=None), "fit it again"),
    ("a network size of zero", f.model(network_size=[0, 5]), "a size of"),
    ("a huge grid", f.model(grid=[10**9, 10**9]), "a size of"),
    ("an infinite scale", f.model(scale=float("inf")), "NaN or infinite"),
    ("no basis", f.model(pca__basis=None), "fit it again"),
    ("a basis of three axes", f.model(pca__basis=torch.rand(2, 3, 4)), "fit it again"),
    ("another mean", f.model(pca__mean=torch.rand(4)), "fit it again"),
    ("weights that are NaN", f.model(field__grid=torch.full((2, 2, 3), float("nan"))), "NaN or infinite"),
    ("weights of another shape", f.model(field__grid=torch.rand(5, 2, 3)), "fit it again"),
    ("a buffer of two axes", f.model("buffer", field__grid=torch.rand(4, 4)), "fit it again"),
    ("a picture that is none", f.model(guidance=torch.zeros(50, dtype=torch.uint8)), "its picture"),
    ("provenance of words", f.model(provenance="words"), "fit it again"),
    ("a picture size of words", f.model(provenance={"input": {"size": "large"}}), "fit it again"),
]


def check_refused(path: Path, says: str, ran: tuple[int, str, str]) -> None:
    status, stdout, stderr = ran
    assert status == 1
    assert stdout == ""
    assert stderr.startswith(f"error: {path}: ")
    assert says in stderr
    assert stderr.count("\n") == 1


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(f.MARK, str(tmp_path / "mark"))
    return tmp_path / "file.safetensors"


@pytest.mark.parametrize(("maker", "says"), [kind[1:] for kind in FILES], ids=[kind[0] for kind in FILES])
def test_a_bad_feature_file_gets_one_line_from_every_command(
    path: Path, capfd: pytest.CaptureFixture[str], maker: f.Maker, says: str
) -> None:
    maker(path)
    out = path.parent / "out"
    for command in (("info",), ("visualize", "-o", out), ("export", "--to", "npz", "-o", out)):
        check_refused(path, says, run(capfd, *command, path))
    assert not out.exists()
    assert not (path.parent / "mark").exists()


@pytest.mark.parametrize(("maker", "says"), [kind[1:] for kind in VALUES], ids=[kind[0] for kind in VALUES])
def test_bad_values_are_found_where_they_are_read(
    path: Path, capfd: pytest.CaptureFixture[str], maker: f.Maker, says: str
) -> None:
    maker(path)
    out = path.parent / "out"
    for command in (("visualize", "-o", out), ("export", "--to", "npz", "-o", out)):
        check_refused(path, says, run(capfd, *command, path))
    assert not list(out.glob("*"))
    assert run(capfd, "info", path)[0] == 0


@pytest.mark.parametrize(("maker", "says"), [kind[1:] for kind in MODELS], ids=[kind[0] for kind in MODELS])
def test_a_bad_model_gets_one_line_from_render(
    path: Path, capfd: pytest.CaptureFixture[str], maker: f.Maker, says: str
) -> None:
    maker(path)
    out = path.parent / "out"
    check_refused(path, says, run(capfd, "render", path, "-o", out, "--output-size", "2x3"))
    assert not out.exists()
    assert not (path.parent / "mark").exists()


def test_values_whose_squares_overflow_have_no_principal_components(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    f.tensors(features=1e38 * torch.rand(3, 2, 2))(path)
    for command in (("visualize",), ("export", "--to", "npy", "--components", "2")):
        status, stdout, stderr = run(capfd, *command, path)
        assert (status, stdout) == (1, "")
        assert "values too large" in stderr
        assert stderr.count("\n") == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_name_that_comes_twice_means_the_same_to_every_reader(path: Path) -> None:
    f.container(TWICE, np.float32([1, 2, 3, 4]).tobytes())(path)
    features = load_features(path).features
    assert features.tolist() == [[[1, 2, 3, 4]]]
    assert open_features(path)[:].equal(features)


def test_in_one_call_the_good_files_are_done(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = path.parent / "in"
    folder.mkdir()
    paths = [folder / f"{name}.safetensors" for name, _, _ in FILES]
    for file, (name, maker, _) in zip(paths, FILES, strict=True):
        if name != "link to itself":
            maker(file)
    good = folder / "good.safetensors"
    good.write_bytes(feature_files()["full"])
    paths.insert(7, good)
    status, stdout, stderr = run(capfd, "info", "--json", *paths)
    assert status == 1
    records = [json.loads(line) for line in stdout.splitlines()]
    assert [record["file"] for record in records] == [str(file) for file in paths]
    assert [record["file"] for record in records if "error" not in record] == [str(good)]
    status, stdout, stderr = run(capfd, "export", "--to", "npz", "-o", path.parent / "out", *paths)
    assert status == 1
    assert stdout.split() == [str(path.parent / "out" / "good.npz")]
    assert f"{len(FILES)} of {len(FILES) + 1} files failed" in stderr
    assert len(stderr.splitlines()) == len(FILES) + 1
    assert not (path.parent / "mark").exists()
