"""Every kind of picture becomes upright 8-bit sRGB, and every kind of bad file one line that names it."""

from __future__ import annotations

import io
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from featup_cli.core.errors import InputError
from featup_cli.pictures.read import Picture, as_picture, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def photo() -> np.ndarray:
    """4 x 6, all pixels different, so that any flip or turn shows."""
    return np.arange(72, dtype=np.uint8).reshape(4, 6, 3) * 3


def swapped_profile() -> bytes:
    """An sRGB profile whose red and green primaries are swapped: a picture with it shows if profiles are obeyed."""
    return SRGB.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def grey_cmyk_profile() -> bytes:
    """A CMYK profile that says that coloured inks all look mid grey, and that black is black."""
    lut = (
        b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", *(65536 * v for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    )
    lut += bytes(range(256)) * 4 + bytes((128, 128, 128, 0, 128, 128)) * 8 + bytes(range(256)) * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(lut))
    header = struct.pack(">I4sI4s4s4s", 144 + len(lut), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + lut


def refused(path: Path, **options: int) -> str:
    with pytest.raises(InputError) as caught:
        load_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_reads_lossless_formats_exactly(tmp_path, photo, suffix):
    Image.fromarray(photo).save(tmp_path / f"a.{suffix}")
    picture = load_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(picture.pixels, photo)
    assert picture.size == (4, 6)
    assert picture.source == str(tmp_path / f"a.{suffix}")
    assert len(picture.sha256) == 64
    assert picture.notes == ()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_exif_orientation(tmp_path, photo, orientation, suffix):
    # How the sensor's pixels lie in the file when the upright picture is `photo` (EXIF 2.3, tag 0x0112).
    stored = {
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: np.rot90(photo, 1),
        7: np.rot90(photo, 2).transpose(1, 0, 2),
        8: np.rot90(photo, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{suffix}", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / f"a.{suffix}").pixels, photo)


@pytest.mark.parametrize(
    "block", [b"\xff" * 40, b"II*\0", b"II*\0\xff\xff\xff\x7f", b"II*\0\x08\0\0\0\xff\xff\x12\x01"]
)
def test_broken_exif_neither_hurts_nor_warns(tmp_path, block):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), RED).save(buffer, "JPEG")
    segment = b"Exif\0\0" + block
    jpeg = buffer.getvalue()
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / "a.jpg").size == (8, 16)


def test_composites_rgba_on_white(tmp_path):
    pixels = np.array([[(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").pixels[0], [RED, WHITE, (127, 127, 127)])


def test_composites_grey_with_alpha_on_white(tmp_path):
    Image.fromarray(np.array([[(0, 255), (0, 0)]], np.uint8), mode="LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").pixels[0], [(0, 0, 0), WHITE])


def test_composites_palette_transparency_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").pixels[0], [RED, WHITE])


def test_reads_palette_and_bilevel(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(load_image(tmp_path / "p.png").pixels[0], [RED, BLUE])
    bilevel = Image.new("1", (2, 1))
    bilevel.putpixel((1, 0), 1)
    bilevel.save(tmp_path / "b.png")
    np.testing.assert_array_equal(load_image(tmp_path / "b.png").pixels[0], [(0, 0, 0), WHITE])


def test_cmyk_without_profile(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif").pixels[0, 0], RED)


def test_cmyk_goes_through_its_profile(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", icc_profile=grey_cmyk_profile())
    pixel = load_image(tmp_path / "a.jpg").pixels[0, 0].astype(int)
    assert np.ptp(pixel) <= 3
    assert abs(pixel.mean() - 120) < 5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile_is_obeyed(tmp_path, mode):
    Image.new("RGB", (2, 2), RED).convert(mode).save(tmp_path / "a.png", icc_profile=swapped_profile())
    red, green, blue = load_image(tmp_path / "a.png").pixels[0, 0].astype(int)
    assert green > 250
    assert max(red, blue) < 10


@pytest.mark.parametrize("profile", [SRGB, b"no profile at all", swapped_profile()[:200]], ids=["srgb", "junk", "cut"])
def test_unusable_profile_is_ignored(tmp_path, photo, profile):
    Image.fromarray(photo).save(tmp_path / "a.png", icc_profile=profile)
    assert np.abs(load_image(tmp_path / "a.png").pixels.astype(int) - photo).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_by_its_type(tmp_path, suffix):
    Image.fromarray(np.array([[0, 257, 25700, 25828, 30000]], np.uint16)).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(load_image(tmp_path / f"a.{suffix}").pixels[0, :, 0], [0, 1, 100, 100, 117])


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 65535], np.int32, [0, 255]),
        ([0.0, 0.5, 1.0], np.float32, [0, 128, 255]),
        ([-3.0, 17.0, 255.0], np.float32, [0, 17, 255]),
    ],
)
def test_deep_grey(tmp_path, values, dtype, expected):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif").pixels[0, :, 1], expected)


@pytest.mark.parametrize(
    ("values", "dtype", "reason"),
    [
        ([0, 1 << 20], np.int32, "no known scale"),
        ([0, 4000], np.float32, "no known scale"),
        ([0, np.nan], np.float32, "NaN"),
        ([0, np.inf], np.float32, "NaN"),
    ],
)
def test_deep_grey_without_scale_is_refused(tmp_path, values, dtype, reason):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tif")
    assert reason in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "tif"])
def test_first_frame_of_an_animation_with_a_note(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 3), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    picture = load_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to(np.uint8(RED), (3, 4, 3)))
    assert len(picture.notes) == 1
    assert "first of 3 frames" in picture.notes[0]


def test_a_phone_photograph_with_a_preview_needs_no_note(tmp_path):
    Image.new("RGB", (16, 8)).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.new("RGB", (8, 4))])
    assert load_image(tmp_path / "a.mpo").notes == ()


@pytest.mark.parametrize("size", [(1, 1), (3, 4000), (4000, 3)])
def test_extreme_shapes(tmp_path, size):
    Image.new("RGB", (size[1], size[0]), BLUE).save(tmp_path / "a.png")
    picture = load_image(tmp_path / "a.png")
    assert picture.size == size
    assert picture.tensor().shape == (3, *size)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: int(len(data) * part)])
    message = refused(tmp_path / f"cut.{suffix}")
    assert "is damaged" in message or "is not a picture" in message


def test_any_failure_of_a_decoder_is_the_files_fault(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for error in (RuntimeError("decode failed"), KeyError("tag"), AttributeError("tile"), struct.error("short")):
        monkeypatch.setattr(Image.Image, "convert", lambda *_, raised=error: (_ for _ in ()).throw(raised))
        assert "is damaged" in refused(tmp_path / "a.png")


def test_not_a_picture(tmp_path):
    (tmp_path / "a.jpg").write_text("no picture, only words")
    assert "is not a picture" in refused(tmp_path / "a.jpg")
    (tmp_path / "empty.png").touch()
    assert "is empty" in refused(tmp_path / "empty.png")
    assert "is a folder" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "missing.png")
    assert "can't be read" in refused(tmp_path / ("long" * 100))
    assert "can't be read" in refused(tmp_path / "null\0byte")


def test_unreadable_file(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")

    def deny(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)  # root reads everything, so file modes would test nothing
    assert "Permission denied" in refused(tmp_path / "a.png")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a huge picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(15_000, 15_000), (200_000, 200_000)])
def test_bombs_are_refused_from_the_header(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(bomb(*size))
    start = time.perf_counter()
    message = refused(tmp_path / "bomb.png")
    assert time.perf_counter() - start < 1
    assert "200,000,000 pixels" in message
    assert "--max-pixels" in message


@pytest.mark.parametrize("limit", [10, 80, 99])
def test_the_limit_is_exact_quiet_and_lifted_by_the_option(tmp_path, limit):
    Image.new("RGB", (5, 20)).save(tmp_path / "a.png")
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refused(tmp_path / "a.png", max_pixels=limit)
        assert f"more than {limit} pixels" in message
        assert ("20x5 (height x width) has" in message) == (limit > 50)  # else Pillow itself refuses
        assert load_image(tmp_path / "a.png", max_pixels=100).size == (20, 5)
    assert before == Image.MAX_IMAGE_PIXELS


def test_tensor_and_resized(photo):
    picture = Picture(photo)
    assert picture.tensor().dtype == torch.float32
    np.testing.assert_allclose(picture.tensor().numpy(), photo.transpose(2, 0, 1) / 255.0, atol=1e-6)
    assert picture.resized((4, 6)).equal(picture.tensor())
    constant = Picture(np.full((40, 60, 3), 51, np.uint8)).resized((13, 7))
    assert constant.shape == (3, 13, 7)
    torch.testing.assert_close(constant, torch.full((3, 13, 7), 0.2))
    # Antialiased: a fine checkerboard becomes grey, not one of its colours.
    board = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    assert (Picture(board.astype(np.uint8)).resized((8, 8)) - 0.5).abs().max() < 0.05


def test_as_picture_takes_every_kind(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    picture = Picture(photo)
    given = (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(photo), photo, photo.copy("F"))
    for image in (*given, picture.tensor(), picture.tensor().double().requires_grad_()):
        np.testing.assert_array_equal(as_picture(image).pixels, photo)
        assert len(as_picture(image).sha256) == 64
    assert as_picture(picture) is picture


def test_as_picture_is_not_changed_with_its_array(photo):
    picture = as_picture(photo)
    photo[:] = 0
    assert picture.pixels.any()


def test_as_picture_takes_a_tensor_of_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    picture = as_picture(torch.from_numpy(pixels).permute(2, 0, 1))
    assert np.array_equal(picture.pixels, pixels)
    assert torch.equal(picture.tensor(), picture.bytes() / 255)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (torch.zeros(2, 3, 4, 4), "a list of its images gives a list of results"),
        (torch.zeros(4, 4, 4), "[3, H, W], [H, W, 3] or grey [H, W]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8 or floats in [0, 1]"),
        (torch.zeros(3, 0, 4), "not [3, 0, 4] float32"),
        (torch.full((3, 4, 4), 200.0), "in [0, 1]"),
        (torch.full((3, 4, 4), -2.0), "in [0, 1]"),
        (torch.full((3, 4, 4), float("nan")), "in [0, 1]"),
        (np.zeros((4, 4, 4), np.uint8), "not [4, 4, 4] uint8"),
        (np.zeros((0, 4, 3), np.uint8), "not [0, 4, 3] uint8"),
    ],
)
def test_as_picture_refuses_other_arrays(image, reason):
    with pytest.raises(InputError) as caught:
        as_picture(image)
    assert reason in str(caught.value)


def test_as_picture_clips_the_overshoot_of_resizing():
    assert as_picture(torch.tensor([-0.1, 1.1]).expand(3, 1, 2)).pixels[0].tolist() == [[0] * 3, [255] * 3]


def test_as_picture_refuses_a_damaged_pillow_image(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(InputError, match="is damaged"):
        as_picture(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_pillows_guard_and_warnings_are_set_back_after_the_last_of_several_threads(tmp_path, monkeypatch):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()
    load = Image.Image.load

    def load_slowly(image: Image.Image) -> object:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert leave.wait(30)
        return load(image)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load_slowly)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(load_image, tmp_path / "a.png")
        assert inside.wait(30)
        with pytest.raises(InputError):
            load_image(tmp_path / "missing.png")
        monkeypatch.undo()
        load_image(tmp_path / "a.png")
        assert Image.MAX_IMAGE_PIXELS == 200_000_000  # still that of the other thread
        leave.set()
        assert other.result().size == (10, 10)
    assert before == Image.MAX_IMAGE_PIXELS
    assert filters == list(warnings.filters)
