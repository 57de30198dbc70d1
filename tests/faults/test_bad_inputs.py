"""Whatever is given in place of a picture or a feature file: it works, or gives one line that names it."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest

from featup_cli.io.features import load_features
from tests.faults import pictures as p
from tests.faults.commands import run

TOP = "is not a picture"
SIZE = p.SIZE

# Name of the file, what makes it, and what becomes of it: the size (height, width) of its features, or words of the
# line that refuses it.
PICTURES: list[tuple[str, p.Maker, tuple[int, int] | str]] = [
    # No file that could be read.
    ("missing.jpg", p.nothing, "no such file"),
    ("empty.jpg", Path.touch, "is empty"),
    ("folder.jpg", Path.mkdir, "holds no pictures"),
    ("dangling.jpg", p.link_to("nowhere.png"), "no such file"),
    ("loop.jpg", p.link_to("loop.jpg"), "symbolic links"),
    ("fifo.jpg", os.mkfifo, "is a pipe"),
    ("socket.jpg", p.unix_socket, "is a pipe, socket or device"),
    ("endless.jpg", p.link_to("/dev/zero"), "device"),
    ("null.jpg", p.link_to("/dev/null"), "device"),
    ("unreadable.jpg", p.unreadable, "Permission denied"),
    ("sparse.jpg", p.sparse(1 << 40), "is too large"),
    (f"{'long' * 64}.jpg", p.nothing, "File name too long"),
    # Files that are no pictures.
    ("text.jpg", p.holding(b"no picture, only words\n"), TOP),
    ("page.jpg", p.holding(b"<!DOCTYPE html><html><body>404 not found</body></html>"), TOP),
    ("drawing.svg", p.holding(p.SVG), TOP),
    ("document.pdf", p.holding(p.PDF), TOP),
    ("program.eps", p.holding(p.POSTSCRIPT), TOP),
    ("program named.jpg", p.holding(p.POSTSCRIPT), TOP),
    ("phone.heic", p.holding(p.HEIC), TOP),
    ("video.mp4", p.holding(p.MP4), TOP),
    ("stream.mpg", p.holding(b"\0\0\1\xb3" + bytes(100)), TOP),
    ("sound.wav", p.sound, TOP),
    ("archive.zip", p.holding(p.zip_file()), TOP),
    ("tape.tar", p.tar_file, TOP),
    ("array.npy", p.holding(p.npy_file()), TOP),
    ("arrays.h5", p.holding(b"\x89HDF\r\n\x1a\n" + bytes(100)), TOP),
    ("table.sqlite", p.sqlite_file, TOP),
    ("zeros.png", p.holding(bytes(5000)), TOP),
    # Damaged pictures.
    ("cut jpg.jpg", p.cut("JPEG"), "is damaged"),
    ("cut png.png", p.cut("PNG"), "is damaged"),
    ("cut webp.webp", p.cut("WEBP"), "is damaged"),
    ("cut gif.gif", p.cut("GIF"), "is damaged"),
    ("cut tif.tif", p.cut("TIFF"), "is damaged"),
    ("cut bmp.bmp", p.cut("BMP"), "is damaged"),
    ("signature.png", p.holding(p.png()[:8]), TOP),
    ("sum of the header.png", p.holding(p.with_wrong_sum(b"IHDR")), TOP),
    ("sum of a text.png", p.holding(p.with_wrong_sum(b"tEXt")), TOP),
    ("no pixels.png", p.holding(p.png(pixels=b"")), "is damaged"),
    ("bomb of pixels.png", p.holding(p.png(size=(200_000, 200_000))), "200,000,000 pixels"),
    ("bomb of jpeg pixels.jpg", p.holding(p.huge_jpeg()), "200,000,000 pixels"),
    ("bomb of text.png", p.holding(p.TEXT_BOMB), "is damaged"),
    ("bomb of profile.png", p.holding(p.PROFILE_BOMB), "is damaged"),
    ("no width.png", p.holding(p.png(size=(12, 0))), TOP),
    ("no size.ppm", p.holding(b"P6 0 0 255\n"), TOP),
    ("nan.tif", p.saved(p.deep(float("nan"), "float32"), "TIFF"), "NaN"),
    ("scale.tif", p.saved(p.deep(5e8, "int32"), "TIFF"), "no known scale"),
    ("strip.png", p.saved(p.Image.new("RGB", (5000, 1)), "PNG"), "smaller --resize"),
    # Pictures that are odd, and done.
    ("png named.jpg", p.saved(p.PHOTO, "PNG"), SIZE),
    ("no suffix", p.saved(p.PHOTO, "PNG"), SIZE),
    ("capital.PNG", p.saved(p.PHOTO, "PNG"), SIZE),
    ("two.dots.png", p.saved(p.PHOTO, "PNG"), SIZE),
    ("line\nbreak.png", p.saved(p.PHOTO, "PNG"), SIZE),
    ("smile \N{GRINNING FACE}.png", p.saved(p.PHOTO, "PNG"), SIZE),
    ("\N{GRINNING FACE}" * 59 + ".png", p.saved(p.PHOTO, "PNG"), SIZE),
    ("-o.png", p.saved(p.PHOTO, "PNG"), SIZE),
    ("bytes \udcff\udcfe.png", p.saved(p.PHOTO, "PNG"), SIZE),
    ("[brackets]*.png", p.saved(p.PHOTO, "PNG"), SIZE),
    (f"{'n' * 236}.png", p.saved(p.PHOTO, "PNG"), SIZE),
    ("linked.png", p.link_to("png named.jpg"), SIZE),
    ("dot.png", p.saved(p.PHOTO.resize((1, 1)), "PNG"), (1, 1)),
    ("animated gif.gif", p.saved(p.FRAMES[0], "GIF", save_all=True, append_images=p.FRAMES[1:]), SIZE),
    ("animated webp.webp", p.saved(p.FRAMES[0], "WEBP", save_all=True, append_images=p.FRAMES[1:]), SIZE),
    ("animated png.png", p.saved(p.FRAMES[0], "PNG", save_all=True, append_images=p.FRAMES[1:]), SIZE),
    ("pages.tif", p.saved(p.FRAMES[0], "TIFF", save_all=True, append_images=p.FRAMES[1:]), SIZE),
    ("page loop.tif", p.holding(p.tiff_loop()), SIZE),
    ("deep.png", p.saved(p.deep(30_000, "uint16"), "PNG"), SIZE),
    ("float.tif", p.saved(p.deep(0.5, "float32"), "TIFF"), SIZE),
    ("inks.jpg", p.saved(p.PHOTO.convert("CMYK"), "JPEG"), SIZE),
    ("lab.tif", p.saved(p.Image.new("LAB", SIZE[::-1]), "TIFF"), SIZE),
    ("bits.png", p.saved(p.PHOTO.convert("1"), "PNG"), SIZE),
    ("grey and alpha.png", p.saved(p.PHOTO.convert("LA"), "PNG"), SIZE),
    ("palette.png", p.saved(p.palette_with_transparency(), "PNG"), SIZE),
    ("turned.png", p.rotated(6), (16, 12)),
    ("turned wrongly.png", p.rotated(77), SIZE),
    ("broken exif.jpg", p.holding(p.jpeg_with(b"Exif\0\0II*\0\xff\xff\xff\x7f")), SIZE),
    ("broken text.png", p.holding(p.BROKEN_TEXT), SIZE),
    ("broken profile.png", p.saved(p.PHOTO, "PNG", icc_profile=p.SRGB[:200]), SIZE),
    ("negative height.bmp", p.holding(p.upside_down_bmp()), SIZE),
    ("sum of the pixels.png", p.holding(p.with_wrong_sum(b"IDAT")), SIZE),
    ("rest behind.jpg", p.holding(p.encoded(p.PHOTO, "JPEG") + bytes(1000)), SIZE),
]  # fmt: skip
REFUSED = [kind for kind in PICTURES if isinstance(kind[2], str)]


@pytest.fixture(autouse=True)
def no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run collects garbage once; of all that tests have loaded, that takes longer than the run."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def make(folder: Path, name: str, maker: p.Maker) -> Path:
    if name.startswith("unreadable") and os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = folder / name
    maker(path)
    return path


FAST = ("--method", "bilinear", "--output-size", "image", "--no-picture", "--device", "cpu")


@pytest.mark.parametrize(("name", "maker", "says"), REFUSED, ids=[kind[0][-30:] for kind in REFUSED])
def test_a_bad_picture_gets_one_line_that_names_it_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, maker: p.Maker, says: str
) -> None:
    path, out = make(tmp_path, name, maker), tmp_path / "out"
    status, stdout, stderr = run(capfd, "upsample", path, "-o", out, *FAST, "-q")
    assert status == (2 if "--resize" in says else 1)
    assert stdout == ""
    assert stderr.startswith(f"error: {path}: ")
    assert says in stderr
    assert stderr.count("\n") == 1
    assert "unexpected" not in stderr
    assert not out.exists()


def test_in_one_run_over_all_of_them_the_good_ones_are_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    kinds = [kind for kind in PICTURES if kind[0] != "unreadable.jpg" or os.geteuid()]
    paths = [make(folder, name, maker) for name, maker, _ in kinds]
    status, stdout, stderr = run(capfd, "upsample", "-o", out, *FAST, "--json", "--", *paths)
    assert status == 1
    records = {record["input"]: record for record in map(json.loads, stdout.splitlines())}
    assert len(records) == len(kinds)
    for path, (_, _, expected) in zip(paths, kinds, strict=True):
        record = records[str(path)]
        if isinstance(expected, str):
            assert record["status"] == "failed"
            assert expected in record["error"]
        else:
            assert record["status"] == "done", record
            assert tuple(load_features(record["output"]).features.shape[1:]) == expected
    good = [path for path in out.rglob("*") if path.is_file()]
    assert len(good) == len(kinds) - len(REFUSED) + (0 if os.geteuid() else 1)
    assert f"{len(kinds) - len(good)} of {len(kinds)} images failed" in stderr
    assert len(stderr.splitlines()) == len(kinds) - len(good) + 1


@pytest.mark.parametrize("argument", ["./-o.png", "--", "."])
def test_a_name_that_looks_like_an_option_is_a_picture_if_said_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    p.PHOTO.save(tmp_path / "-o.png")
    monkeypatch.chdir(tmp_path)
    given = ["--", "-o.png"] if argument == "--" else [argument]
    status, stdout, _ = run(capfd, "upsample", "-o", "out", *FAST, *given)
    assert (status, stdout) == (0, "out/-o.safetensors\n")


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    p.saved(p.FRAMES[0], kind, save_all=True, append_images=p.FRAMES[1:])(path)
    status, _, stderr = run(capfd, "upsample", path, "-o", tmp_path / "out", *FAST)
    assert status == 0
    assert f"{path}: first of 3 frames" in stderr


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: os.truncate(path, 300)])
def test_a_picture_that_changes_while_it_is_read_is_one_that_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, change: p.Maker
) -> None:
    read_bytes = Path.read_bytes

    def change_and_read(path: Path) -> bytes:
        if path.name == "b.png":
            change(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", change_and_read)
    for name in ("a", "b", "c"):
        p.PHOTO.save(tmp_path / f"{name}.png")
    status, stdout, stderr = run(capfd, "upsample", tmp_path, "-o", tmp_path / "out", *FAST, "-q", "--json")
    assert status == 1
    assert [json.loads(line)["status"] for line in stdout.splitlines()] == ["done", "failed", "done"]
    assert stderr.startswith(f"error: {tmp_path / 'b.png'}: ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.safetensors", "c.safetensors"]


@pytest.mark.parametrize("in_the_way", ["out/a.safetensors/", "out"])
def test_an_output_that_is_in_the_way_is_named_and_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], in_the_way: str
) -> None:
    p.PHOTO.save(tmp_path / "a.png")
    obstacle = tmp_path / in_the_way
    if in_the_way.endswith("/"):
        obstacle.mkdir(parents=True)
    else:
        obstacle.write_text("mine")
    status, stdout, stderr = run(capfd, "upsample", tmp_path / "a.png", "-o", tmp_path / "out", *FAST, "-q")
    assert (status, stdout) == (1, "")
    assert stderr.count("\n") == 1
    assert str(tmp_path / "out") in stderr
    assert "can't be written" in stderr
    assert obstacle.is_dir() if in_the_way.endswith("/") else obstacle.read_text() == "mine"


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("folder", "holds no pictures"),
        ("*.webp", "matches no picture"),
        ("missing.txt", "No such file"),
        ("empty.txt", "no pictures"),
    ],
)
def test_where_no_picture_is_that_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], argument: str, says: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.md").write_text("no picture")
    (tmp_path / "empty.txt").touch()
    status, stdout, stderr = run(capfd, "upsample", tmp_path / argument, "-o", tmp_path / "out", *FAST, "-q")
    assert (status, stdout) == (1, "")
    assert stderr.count("\n") == 1
    assert says in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [[], ["--backbone", "resnet18"]])
def test_weights_that_are_a_pipe_are_refused_instead_of_read(
    options: list[str], photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "weights.pt")
    status, _, stderr = run(capfd, "upsample", photo, *options, "--weights", tmp_path / "weights.pt")
    assert status == 1
    assert "weights.pt: is a pipe" in stderr


def test_lists_with_null_bytes_and_empty_arguments_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_bytes(b"a\0b.png\n")
    status, _, stderr = run(capfd, "upsample", tmp_path / "list.txt", "", "-o", tmp_path / "out", "--method", "nearest")
    assert status == 1
    assert "list.txt: contains null bytes" in stderr
    assert "'': is an empty argument" in stderr
