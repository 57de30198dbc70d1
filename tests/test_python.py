"""What a Python user writes: it works, or one `FeatUpError` says what to pass."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

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
        ([pixels()], "one path, Pillow image, array or tensor, or the bytes of a file, not list"),
        (None, "not NoneType"),
        (b"no picture", "is not a picture that Pillow can read"),
        (io.StringIO("text"), 'is opened as text; open it with "rb"'),
        (np.zeros((2, 3, 4, 4), np.uint8), "[2, 3, 4, 4] uint8; give the images of a batch one by one"),
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
    upsampler = featup.make_upsampler("bilinear", backbone=backbone, network_size=(32, 32))
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(ShapeError, match=r"output_size must be \(height, width\), each at least 1, not 64"):
        upsampler(image, backbone(image), 64)  # type: ignore[arg-type]


def test_one_file_is_shown_as_a_list_of_one(tmp_path: Path) -> None:
    result = featup.upsample(pixels(32, 48), method="bilinear", resize=32)
    path = result.save(tmp_path / "one.safetensors")
    assert featup.visualize(str(path)) == [tmp_path / "one.pca.png"]
    assert featup.visualize([path], output=tmp_path, overwrite=True) == [tmp_path / "one.pca.png"]
    with pytest.raises(OutputError, match=r"x.npy: features are saved as .safetensors"):
        result.save(tmp_path / "x.npy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.pca.png", "one.safetensors"]
