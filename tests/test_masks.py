"""Features pooled per region: against loops over regions, by bands, in files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import featup_cli as featup
from featup_cli.cli.app import app
from featup_cli.core.errors import InputError, ShapeError
from featup_cli.engine import bands
from featup_cli.io.header import read_provenance
from featup_cli.io.stream import stream_features
from featup_cli.pictures.masks import Mask, as_mask

SIZE = (72, 96)  # of `photo`
RANDOM = np.random.default_rng(0)


def loops(features: torch.Tensor, labels: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
    """Means, ids and pixels of regions, one region after another; `labels` are resized by PyTorch's own nearest."""
    grid = torch.from_numpy(labels.astype(np.float64))[None, None]
    resized = torch.nn.functional.interpolate(grid, features.shape[1:], mode="nearest-exact")[0, 0].long().numpy()
    values = features.double().numpy()
    ids = sorted(set(resized.ravel().tolist()))
    means = [[channel[resized == region].mean() for channel in values] for region in ids]
    return np.array(means), ids, [int((resized == region).sum()) for region in ids]


def check(regions: featup.Regions, features: torch.Tensor, labels: np.ndarray) -> None:
    means, ids, pixels = loops(features, labels)
    assert regions.ids.tolist() == ids
    assert regions.pixels.tolist() == pixels
    assert regions.features.dtype == torch.float32
    assert np.allclose(regions.features.numpy(), means, rtol=1e-6, atol=1e-7)


def blocks(low: int, high: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Labels in blocks of 6 by 8 pixels."""
    coarse = RANDOM.integers(low, high, (size[0] // 6, size[1] // 8))
    return coarse.repeat(6, 0).repeat(8, 1)


def save_mask(path: Path, labels: np.ndarray, mode: str = "L") -> Path:
    if mode == "RGB":
        colours = np.stack([labels >> 16, labels >> 8 & 255, labels & 255], -1)
        Image.fromarray(colours.astype(np.uint8)).save(path)
    elif mode == "P":
        image = Image.fromarray(labels.astype(np.uint8)).convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(RANDOM.integers(0, 256, 768, dtype=np.uint8).tobytes())
        image.save(path)
    elif mode == "1":
        Image.fromarray(labels.astype(bool)).save(path)
    else:
        Image.fromarray(labels.astype(np.uint8 if mode == "L" else np.uint16)).save(path)
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    made = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return made.exit_code, made.stdout, made.stderr


def upsample(photo: Path, out: Path, mask: Path, *more: object) -> tuple[int, str, str]:
    return run("upsample", photo, "-o", out, "--mask", mask, "-m", "jbu", "--resize", 64, "--no-picture", *more)


@pytest.mark.parametrize(
    ("mode", "high"), [("L", 256), ("P", 9), ("I;16", 65_536), ("1", 2), ("RGB", 2**24)], ids=lambda value: str(value)
)
def test_each_kind_of_mask_gives_the_means_of_a_loop(tmp_path: Path, mode: str, high: int) -> None:
    labels, features = blocks(0, high), torch.rand(5, 41, 55)
    path = save_mask(tmp_path / "m.png", labels, mode)
    with Image.open(path) as image:
        assert image.mode == mode or (image.mode, mode) == ("I", "I;16")  # of Pillow before 11
        from_image = featup.pool_regions(torch.rand(1, *SIZE), image)
    assert from_image.ids.tolist() == np.unique(labels).tolist()
    # Features of another shape than the mask: 41 x 55 shows a picture of 72 x 96 to the pixel.
    check(featup.pool_regions(features, path), features, labels)


@pytest.mark.parametrize("offset", [-7, 2**40])
def test_arrays_of_any_whole_numbers_are_masks(tmp_path: Path, offset: int) -> None:
    labels, features = blocks(0, 5) + offset, torch.randn(3, *SIZE)
    np.save(tmp_path / "m.npy", labels)
    for mask in (labels, torch.from_numpy(labels), tmp_path / "m.npy"):
        check(featup.pool_regions(features.numpy(), mask), features, labels)


def test_colours_and_booleans_in_arrays(tmp_path: Path) -> None:
    features = torch.rand(2, 3, 4)
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[1:] = (255, 128, 1)
    regions = featup.pool_regions(features, colours)
    assert regions.ids.tolist() == [0, 0xFF8001]
    torch.testing.assert_close(regions.features[1], features[:, 1:].mean((1, 2)))
    assert featup.pool_regions(features, colours[..., 0] > 0).ids.tolist() == [0, 1]


@pytest.mark.parametrize("storage", ["full", "factored"])
def test_the_command_pools_what_it_streams_by_bands(
    photo: Path, tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES", 4 * 96 * 85 * 7)  # bands of seven rows
    labels = blocks(0, 12)
    mask = save_mask(tmp_path / "m.png", labels)
    status, _, error = upsample(photo, tmp_path / "out", mask, "--storage", storage)
    assert status == 0, error
    file = featup.load_features(tmp_path / "out" / "photo.safetensors")
    features = featup.upsample(photo, method="jbu", resize=64).features
    assert file.region_features is not None
    assert file.region_ids is not None
    assert file.region_pixels is not None
    assert file.region_features.shape == (len(np.unique(labels)), 96)
    means, ids, pixels = loops(features, labels)
    assert file.region_ids.tolist() == ids
    assert file.region_pixels.tolist() == pixels
    assert np.allclose(file.region_features, means, rtol=1e-4, atol=1e-4)
    # The same from the file, loaded and mapped, to the precision of its float16.
    for stored in (file, tmp_path / "out" / "photo.safetensors"):
        pooled = featup.pool_regions(stored, mask)
        assert torch.equal(pooled.ids, file.region_ids)
        assert torch.equal(pooled.pixels, file.region_pixels)
        if storage == "full":
            torch.testing.assert_close(pooled.features, file.region_features, rtol=1e-2, atol=1e-3)


def test_a_result_pools_with_the_size_of_its_picture(photo: Path) -> None:
    result = featup.upsample(photo, method="bilinear", resize="64x64")  # not the picture's aspect ratio
    labels = blocks(0, 4)
    check(featup.pool_regions(result, labels), result.features, labels)
    with pytest.raises(InputError, match=r"72x96 pixels, but its picture 64x64 \(height x width\)"):
        featup.pool_regions(result.features, labels)  # a bare tensor has no picture


def test_exports_and_info_show_regions(photo: Path, tmp_path: Path) -> None:
    mask = save_mask(tmp_path / "m.png", blocks(0, 3))
    assert upsample(photo, tmp_path, mask)[0] == 0
    path = tmp_path / "photo.safetensors"
    file = featup.load_features(path)
    assert file.region_features is not None
    assert file.region_ids is not None
    (npz,) = featup.export([path], "npz")
    with np.load(npz) as arrays:
        assert np.array_equal(arrays["region_features"], file.region_features.numpy())
        assert arrays["region_ids"].tolist() == file.region_ids.tolist()
    (pt,) = featup.export([path], "pt", components=3)
    loaded = torch.load(pt, weights_only=True)
    assert torch.equal(loaded["region_ids"], file.region_ids)
    expected = (file.region_features - loaded["pca_mean"]) @ loaded["pca_basis"].T
    torch.testing.assert_close(loaded["region_features"], expected, rtol=1e-4, atol=1e-4)
    status, out, _ = run("info", path)
    assert status == 0
    assert "[3, 96] float32" in out
    assert "[3] int64" in out
    assert read_provenance(path)["mask"]["path"] == str(mask)


def test_a_result_is_up_to_date_with_its_own_mask_only(photo: Path, tmp_path: Path) -> None:
    mask = save_mask(tmp_path / "m.png", blocks(0, 3))
    assert upsample(photo, tmp_path, mask)[0] == 0
    assert "up to date" in upsample(photo, tmp_path, mask)[2]
    save_mask(mask, blocks(0, 5))
    status, out, _ = upsample(photo, tmp_path, mask, "--dry-run", "--json")
    assert status == 1
    assert "made with other settings: mask" in json.loads(out)["reason"]
    status, out, _ = upsample(photo, tmp_path, mask, "--dry-run", "--json", "--overwrite")
    assert (status, json.loads(out)["action"]) == (0, "redo")
    assert "up to date" not in upsample(photo, tmp_path, mask, "--overwrite")[2]
    without = run("upsample", photo, "-o", tmp_path, "-m", "jbu", "--resize", 64, "--no-picture", "--overwrite")
    assert without[0] == 0
    assert "up to date" not in without[2]
    assert "mask" not in read_provenance(tmp_path / "photo.safetensors")["request"]


def test_a_folder_of_masks_serves_pictures_by_name(photo: Path, tmp_path: Path) -> None:
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    for name in ("a", "b/c", "d"):
        for folder in (pictures, masks):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / f"{name}.jpg").write_bytes(photo.read_bytes())
    save_mask(masks / "a.png", blocks(0, 2))
    save_mask(masks / "b" / "c.tif", blocks(5, 8))
    status, out, error = upsample(pictures, tmp_path / "out", masks, "--recursive", "--json")
    assert status == 1
    lines = {Path(line["input"]).stem: line for line in map(json.loads, out.splitlines())}
    assert [lines[name]["status"] for name in "acd"] == ["done", "done", "failed"]
    assert lines["d"]["error"].count("\n") == 0
    assert f"{masks}/d.png: no such file" in lines["d"]["error"]
    assert str(pictures / "d.jpg") in error
    stored = featup.load_features(tmp_path / "out" / "b" / "c.safetensors").region_ids
    assert stored is not None
    assert stored.tolist() == [5, 6, 7]
    assert not (tmp_path / "out" / "d.safetensors").exists()
    preview = upsample(pictures, tmp_path / "out", masks, "--recursive", "--dry-run", "--json")
    actions = {Path(line["input"]).stem: line["action"] for line in map(json.loads, preview[1].splitlines())}
    assert actions == {"a": "skip", "c": "skip", "d": "fail"}


def test_regions_that_vanish_are_left_out_and_told(photo: Path, tmp_path: Path) -> None:
    labels = np.zeros(SIZE, int)
    labels[0, 0] = 3
    mask = save_mask(tmp_path / "m.png", labels)
    status, _, error = upsample(photo, tmp_path, mask, "--output-size", "6x8")
    assert status == 0
    assert "1 of 2 regions have no pixel at 6x8" in error
    stored = featup.load_features(tmp_path / "photo.safetensors").region_ids
    assert stored is not None
    assert stored.tolist() == [0]


def test_masks_that_can_not_be_meant_are_one_line(photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jpg"
    other.write_bytes(photo.read_bytes())
    good = save_mask(tmp_path / "good.png", blocks(0, 3))
    save_mask(tmp_path / "turned.png", blocks(0, 3, (96, 72)))
    np.save(tmp_path / "float.npy", np.zeros(SIZE))
    np.save(tmp_path / "many.npy", np.arange(70_000).reshape(700, 100))
    Image.new("RGBA", SIZE[::-1], (1, 2, 3, 4)).save(tmp_path / "clear.png")
    Image.new("LA", SIZE[::-1]).save(tmp_path / "alpha.png")
    Image.new("L", SIZE[::-1]).save(tmp_path / "lossy.jpg")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:60])
    for name, says in {
        "absent.png": "--mask {}: no such file",
        "turned.png": "{}: has 96x72 pixels, but its picture 72x96 (height x width)",
        "float.npy": "{}: a mask holds whole numbers, the ids of regions, not float64",
        "many.npy": "{}: has 70,000 regions, 65,536 at most",
        "clear.png": "{}: has transparent pixels",
        "alpha.png": "{}: is a LA picture",
        "lossy.jpg": "{}: is a JPEG, whose compression changes labels; save the mask as PNG",
        "cut.png": "{}: can't be read as labels",
    }.items():
        status, _, error = upsample(photo, tmp_path / "out", tmp_path / name, "--quiet")
        assert status == 1, name
        assert says.format(tmp_path / name) in error
        assert error.count("\n") == 1
        assert not list((tmp_path / "out").glob("*.safetensors"))
    status, _, error = run("upsample", photo, other, "-o", tmp_path / "out", "--mask", good, "--quiet")
    assert status == 2
    assert error == f"error: --mask {good}: is one mask for 2 pictures; give a folder of masks by name\n"
    save_mask(tmp_path / "good.bmp", blocks(0, 3))
    status, _, error = upsample(photo, tmp_path / "out", tmp_path, "--quiet")
    assert status == 2
    assert "good.png has the same name" in error or "good.bmp has the same name" in error


def test_masks_and_features_of_other_forms_are_refused_in_python() -> None:
    features = torch.rand(2, 4, 6)
    for mask, says in (
        (np.zeros((2, 4, 6), np.uint8), "colours uint8"),
        (np.zeros((4, 6, 3)), "colours uint8"),
        (np.zeros(5, int), r"\[H, W\], not \[5\]"),
        (torch.zeros(4, 6), "float32"),
        ([[1, 2]], "list"),
        (np.full((4, 6), 2**64 - 1, np.uint64), "64 bits"),
    ):
        with pytest.raises(InputError, match=says):
            featup.pool_regions(features, mask)
    with pytest.raises(ShapeError, match=r"\[C, H, W\], not \[4, 6\]"):
        featup.pool_regions(features[0], torch.zeros(4, 6, dtype=torch.long))


@pytest.mark.parametrize(("length", "wanted"), [(7, 3), (3, 7), (10, 4), (4, 10), (5, 5), (1000, 333)])
def test_resizing_takes_the_pixel_at_each_centre(length: int, wanted: int) -> None:
    numbers = np.arange(length)[:, None].repeat(length, 1)
    mask: Mask = as_mask(numbers).fitted((wanted, wanted), (length, length))
    grid = torch.arange(length, dtype=torch.float64)[None, None]
    expected = torch.nn.functional.interpolate(grid, wanted, mode="nearest-exact")[0, 0].long()
    assert mask.ids[mask.index[:, 0]].tolist() == expected.tolist()


def test_tensors_that_were_announced_must_come(tmp_path: Path) -> None:
    maps = {"region_features": torch.empty(2, 3, device="meta")}
    with (
        pytest.raises(ShapeError, match="region_features was not written"),
        stream_features(tmp_path / "f.safetensors", shape=(3, 1, 1), maps=maps, provenance={}) as writer,
    ):
        writer.add(torch.zeros(3, 1, 1))
    with (
        pytest.raises(ShapeError, match=r"region_features must be \[2, 3\]"),
        stream_features(tmp_path / "f.safetensors", shape=(3, 1, 1), maps=maps, provenance={}) as writer,
    ):
        writer.put("region_features", torch.zeros(3, 2))
    assert not list(tmp_path.iterdir())
