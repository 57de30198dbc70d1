"""What a Python user writes: it works, or one `FeatUpError` says what to pass."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import featup_cli as featup
from featup_cli.core.errors import OutputError, ShapeError
from featup_cli.core.shapes import resolve_network_size, resolve_output_size
from featup_cli.pictures.read import as_picture

NOMINAL = (100, 150)


def pixels(height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "form",
    [
        lambda p: p,
        lambda p: p.transpose(2, 0, 1),
        lambda p: p[None],
        lambda p: p[::-1][::-1],
        lambda p: p / 255,
        lambda p: (p / 255).astype(np.float32).transpose(2, 0, 1),
        lambda p: torch.from_numpy(p),
        lambda p: torch.from_numpy(p).permute(2, 0, 1),
        lambda p: torch.from_numpy(p).permute(2, 0, 1)[None] / 255,
        lambda p: torch.from_numpy(p) / 255,
        lambda p: np.frombuffer(p.tobytes(), np.uint8).reshape(p.shape),
        lambda p: Image.fromarray(p),
        lambda p: encoded(p).getvalue(),
        lambda p: memoryview(encoded(p).getvalue()),
        lambda p: encoded(p),
    ],
    ids=[
        "HWC",
        "CHW",
        "batch of one",
        "reversed twice",
        "float HWC",
        "float CHW",
        "tensor HWC",
        "tensor CHW",
        "float batch of one",
        "float tensor HWC",
        "read-only",
        "Pillow",
        "bytes",
        "memoryview",
        "open file",
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_picture_in_any_form_is_the_same_picture(form: Any) -> None:
    assert np.array_equal(as_picture(form(pixels())).pixels, pixels())


def encoded(values: np.ndarray) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    stream.seek(0)
    return stream


@pytest.mark.parametrize("values", [pixels()[..., 0], torch.from_numpy(pixels()[..., 0]) / 255])
def test_grey_values_become_three_equal_channels(values: Any) -> None:
    assert np.array_equal(as_picture(values).pixels, np.repeat(pixels()[..., :1], 3, 2))


def test_channels_of_an_array_are_last_and_those_of_a_tensor_first_if_both_could_be() -> None:
    values = pixels(3, 5).copy()
    assert as_picture(values).size == (3, 5)
    assert as_picture(torch.from_numpy(values)).size == (5, 3)


def test_a_picture_is_a_copy() -> None:
    values = pixels()
    picture = as_picture(values)
    values[:] = 0
    assert np.array_equal(picture.pixels, pixels())


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({}, "one path, Pillow image, array or tensor, or the bytes of a file, not dict"),
        ([], "give at least one picture, not an empty list"),
        (None, "not NoneType"),
        (b"no picture", "is not a picture that Pillow can read"),
        (io.StringIO("text"), 'is opened as text; open it with "rb"'),
        (np.zeros((1, 2, 3, 4, 4), np.uint8), "not [1, 2, 3, 4, 4] uint8"),
        (np.zeros((4, 4, 4), np.uint8), "not [4, 4, 4] uint8"),
        (np.zeros((4, 4, 3), np.int64), "not [4, 4, 3] int64"),
        (np.zeros((4, 4, 3), "U1"), "must be uint8 or floats in [0, 1], not <U1"),
        (np.zeros((4, 4, 3), ">f4"), "must be uint8 or floats in [0, 1], not >f4"),
        (np.zeros((0, 4, 3), np.uint8), "not [0, 4, 3] uint8"),
        (np.full((4, 4, 3), 2.0), "must be in [0, 1], not 2 to 2"),
        (np.full((4, 4, 3), np.nan), "must be in [0, 1], not nan to nan"),
    ],
)
def test_anything_else_is_refused_in_one_line(image: Any, says: str) -> None:
    with pytest.raises(featup.FeatUpError) as caught:
        featup.upsample(image, method="bilinear")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "size"),
    [(512, (512, 512)), ("512", (512, 512)), ((448, 640), (448, 640)), ([448, 640], (448, 640)), ("2x", (8, 12))],
)
def test_sizes_of_the_result(given: Any, size: tuple[int, int]) -> None:
    assert resolve_output_size(given, NOMINAL, NOMINAL, (4, 6)) == size


@pytest.mark.parametrize(("given", "size"), [((224, 320), (224, 320)), (64, (64, 96)), ("64x80", (64, 80))])
def test_sizes_of_the_network_input(given: Any, size: tuple[int, int]) -> None:
    assert resolve_network_size(NOMINAL, given, NOMINAL, 16, None, "x") == size


@pytest.mark.parametrize("option", ["resize", "output_size"])
@pytest.mark.parametrize("size", [0, -1, (0, 5), (1, 2, 3), (1.5, 2), object(), "wide"])
def test_other_sizes_are_refused_in_one_line(option: str, size: Any) -> None:
    with pytest.raises(featup.FeatUpError):
        featup.upsample(pixels(32, 32), method="bilinear", **{option: size})


def test_a_backbone_by_its_name_and_a_size_by_one_number() -> None:
    backbone = featup.load_backbone("tiny")
    assert backbone.name == "tiny"
    image = torch.rand(1, 3, 32, 32)
    lr_feats = backbone(image)
    for method in ("bilinear", "guided", "jbu", "resfu", "large-image"):
        upsampler = featup.make_upsampler(method, backbone=backbone, network_size=(32, 32))
        assert torch.equal(upsampler(image, lr_feats, 40), upsampler(image, lr_feats, (40, 40)))
        bands = torch.cat(list(upsampler.bands(image, lr_feats, 40, 16)), 2)
        assert bands.shape == (1, 96, 40, 40)


@pytest.mark.parametrize(
    ("image", "lr_feats", "size", "says"),
    [
        ("photo.jpg", torch.rand(1, 96, 2, 2), 32, "image must be a tensor .* featup.load_image"),
        (torch.rand(3, 32, 32), torch.rand(1, 96, 2, 2), 32, r"image must be \[B, 3, H, W\], not \[3, 32, 32\]"),
        (torch.rand(1, 3, 32, 32), torch.rand(96, 2, 2), 32, r"lr_feats must be \[1, C, h, w\], not \[96, 2, 2\]"),
        (torch.rand(1, 3, 32, 32), torch.rand(2, 96, 2, 2), 32, r"lr_feats must be \[1, C, h, w\]"),
        (torch.rand(1, 3, 32, 32), torch.ones(1, 96, 2, 2).int(), 32, "floats .* not torch.int32"),
        (torch.rand(1, 3, 32, 32), torch.rand(1, 96, 0, 2), 32, r"not \[1, 96, 0, 2\]"),
        (torch.rand(1, 3, 32, 32), torch.rand(1, 96, 2, 2), 0, r"or one number for a square, not \(0, 0\)"),
        (torch.rand(1, 3, 32, 32), torch.rand(1, 96, 2, 2), (8, 1.5), r"output_size must be \(height, width\)"),
    ],
)
@pytest.mark.parametrize("method", ["bilinear", "guided", "jbu", "resfu"])
def test_wrong_shapes_say_what_to_pass(method: str, image: Any, lr_feats: Any, size: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        featup.make_upsampler(method)(image, lr_feats, size)


@pytest.mark.parametrize("give", [list, tuple, np.stack, lambda each: torch.from_numpy(np.stack(each))])
def test_several_pictures_give_a_list_of_results(give: Any) -> None:
    pictures = [pixels(32, 48), pixels(32, 48)[::-1]]
    found = featup.upsample(give(pictures), method="bilinear", resize=(32, 48))
    alone = [featup.upsample(each, method="bilinear", resize=(32, 48)) for each in pictures]
    assert [torch.equal(a.features, b.features) for a, b in zip(found, alone, strict=True)] == [True, True]


def test_a_backbone_sees_a_picture_as_upsample_does(photo: Path) -> None:
    backbone = featup.load_backbone("tiny")
    seen = featup.upsample(photo, backbone=backbone, method="bilinear").lr_features
    assert seen is not None
    for form in (photo, str(photo), featup.load_image(photo), Image.open(photo), np.array(Image.open(photo))):
        assert torch.equal(backbone(form)[0], seen)


def test_what_is_shown_is_three_lines_and_a_picture(photo: Path, tmp_path: Path) -> None:
    result = featup.upsample(photo, method="bilinear", resize=(32, 48))
    path = result.save(tmp_path / "one.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"features": torch.rand(4, 6, 8)}, foreign, {"featup": '{"backbone": 3, "input": [], "seconds": {}}'})
    with featup.open_features(path) as mapped, featup.open_features(foreign) as strange:
        for thing, kind in ((result, "float32"), (featup.load_features(path), "float16"), (mapped, "float16")):
            first, second, third = repr(thing).split("\n")
            assert first == f"{type(thing).__name__}: {kind} [96, 32, 48]"
            assert second.split() == ["backbone", "tiny,", "method", "bilinear"]
            assert f"of {photo}, 72 x 96 pixels, seen by the backbone at 32 x 48" in third
        assert repr(strange).startswith("MappedFeatures: float32 [4, 6, 8]\n  backbone ?, method ?\n")
    featup.visualize(path)
    shown = featup.load_features(path)._repr_png_()
    assert shown == path.with_suffix(".pca.png").read_bytes()
    assert Image.open(io.BytesIO(result._repr_png_())).format == "PNG"


def test_one_file_is_shown_as_a_list_of_one(tmp_path: Path) -> None:
    result = featup.upsample(pixels(32, 48), method="bilinear", resize=32)
    path = result.save(tmp_path / "one.safetensors")
    assert featup.visualize(str(path)) == [tmp_path / "one.pca.png"]
    assert featup.visualize([path], output=tmp_path, overwrite=True) == [tmp_path / "one.pca.png"]
    with pytest.raises(OutputError, match=r"x.npy: features are saved as .safetensors"):
        result.save(tmp_path / "x.npy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.pca.png", "one.safetensors"]
