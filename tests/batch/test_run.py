"""Runs over folders: what is done, skipped, made again, and what a failure does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import featup_cli
from featup_cli.batch.claims import FILE as CLAIMS
from featup_cli.batch.claims import Claims
from featup_cli.cli.app import app
from featup_cli.core.units import format_bytes
from featup_cli.engine.pipeline import Pipeline
from featup_cli.io.features import load_features
from tests.batch.runs import FAST, START, check_whole, hidden_files, make_pictures, numbered, upsample


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures, one below."""
    make_pictures(tmp_path / "in", ["a.png", "b.jpg", "sub/c.png"])
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_folder_is_done_with_its_subfolders(pictures: Path, out: Path) -> None:
    ran = upsample(pictures, "-r", "-o", out)
    assert ran.status == 0
    assert [Path(line["output"]).relative_to(out).as_posix() for line in ran.lines] == [
        "a.safetensors", "b.safetensors", "sub/c.safetensors"
    ]  # fmt: skip
    assert ran.names("done") == ["a.png", "b.jpg", "c.png"]
    assert check_whole(out) == {"a", "b", "c"}
    assert hidden_files(out) == []


def test_a_network_input_that_does_not_fit_is_refused_with_the_estimate(pictures: Path, out: Path) -> None:
    ran = upsample(pictures / "a.png", "-o", out, "--resize", 4096, "--memory", "2GB")
    assert ran.status == 1
    assert "tiny at 4096x5728 pixels (height x width) needs about" in ran.stderr
    assert "but the limit is" in ran.stderr
    assert not out.exists()


@pytest.mark.slow
def test_every_picture_of_a_folder_fits_where_the_first_does(tmp_path: Path, out: Path) -> None:
    """In a process of its own, whose memory is its own: what one picture leaves must not keep out the next."""
    make_pictures(tmp_path / "in", numbered(4), (80, 120))
    held = "import torch, featup_cli.engine.pipeline as p; print(p.held_bytes(torch.device('cpu')))"
    loaded = int(subprocess.run([sys.executable, "-c", held], capture_output=True, check=True, text=True).stdout)
    memory = loaded + 350_000_000  # a result of 96 channels is 307 MB
    command = [
        *START, str(tmp_path / "in"), "-o", str(out), "--method", "bilinear", "--device", "cpu", "--output-size",
        "800x1000", "--memory", str(memory), "--json",
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count('"done"') == 4


def test_lists_on_standard_input_and_patterns_are_done(
    pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    assert upsample("-", "-o", out, stdin=b"sub/c.png\na.png\n").names("done") == ["a.png", "c.png"]
    assert upsample("*.jpg", "-o", out).names("done") == ["b.jpg"]
    assert (out / "sub" / "c.safetensors").exists()


def test_pictures_of_mixed_sizes_come_out_as_when_alone(tmp_path: Path, out: Path) -> None:
    paths = make_pictures(tmp_path / "in", ["0.png", "2.png", "4.png"], (40, 56))
    paths += make_pictures(tmp_path / "in", ["1.png", "3.png"], (72, 33))
    assert upsample(tmp_path / "in", "-o", out, "--batch", 4, "--dtype", "float32").status == 0
    for path in paths:
        alone = featup_cli.upsample(path, method="bilinear", resize=32, device="cpu")
        features = load_features(out / f"{path.stem}.safetensors").features
        assert features.shape == alone.features.shape
        assert float((features - alone.features).abs().max()) < 1e-4


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def mark(path: Path) -> None:
    """Change a picture as another program would."""
    with Image.open(path) as image:
        image.convert("L").save(path)


Change = tuple[Callable[[Path, Path], object], list[object]]

MADE: dict[str, tuple[Change, list[str]]] = {
    "nothing": ((lambda pictures, out: None, []), []),
    "overwrite": ((lambda pictures, out: None, ["--overwrite"]), ["a.png", "b.jpg"]),
    "a newer copy": ((lambda pictures, out: (pictures / "a.png").touch(), []), []),
    "no png": ((lambda pictures, out: (out / "b.png").unlink(), []), ["b.jpg"]),
    "no png, none wanted": ((lambda pictures, out: (out / "b.png").unlink(), ["--no-picture"]), []),
    "cut short": ((lambda pictures, out: damage(out / "a.safetensors"), []), ["a.png"]),
    "empty": ((lambda pictures, out: (out / "a.safetensors").write_bytes(b""), []), ["a.png"]),
    "a run that was killed before the features": (
        (lambda pictures, out: (out / "a.safetensors").unlink(), []),
        ["a.png"],
    ),
}
KEPT: dict[str, tuple[Change, dict[str, str]]] = {
    "a setting": (
        (lambda pictures, out: None, ["--output-size", "2x"]),
        dict.fromkeys(["a.png", "b.jpg"], "made with other settings: output_size None -> 2x"),
    ),
    "the number format": (
        (lambda pictures, out: None, ["--dtype", "float32"]),
        dict.fromkeys(["a.png", "b.jpg"], "made with other settings: dtype float16 -> float32"),
    ),
    "a picture": (
        (lambda pictures, out: Image.new("RGB", (40, 40), "red").save(pictures / "a.png"), []),
        {"a.png": "made from another picture"},
    ),
    "of another picture": (
        (lambda pictures, out: shutil.copy(out / "b.safetensors", out / "a.safetensors"), []),
        {"a.png": "made from another picture"},
    ),
    "another png": (
        (lambda pictures, out: shutil.copy(out / "b.png", out / "a.png"), []),
        {"a.png": "is not the one that was made with the features"},
    ),
}
FOREIGN: dict[str, tuple[Change, str, str]] = {
    "garbage": (
        (lambda pictures, out: (out / "a.safetensors").write_bytes(b"garbage" * 9), []),
        "a.safetensors", "can't be used",
    ),
    "a png of another program": (
        (lambda pictures, out: mark(out / "a.png"), []),
        "a.png", "is not the one that was made with the features",
    ),
    "a png without features": (
        (lambda pictures, out: (mark(out / "a.png"), (out / "a.safetensors").unlink()), []),
        "a.png", "exists already, without features",
    ),
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("change", MADE)
def test_only_what_is_not_up_to_date_is_made(pictures: Path, out: Path, change: str) -> None:
    (happens, options), expected = MADE[change]
    assert upsample(pictures, "-o", out).status == 0
    happens(pictures, out)
    looked = upsample(pictures, "-o", out, "--dry-run", *options)
    assert [Path(line["input"]).name for line in looked.lines if line["action"] != "skip"] == expected
    ran = upsample(pictures, "-o", out, *options)
    assert ran.status == 0
    assert ran.names("done") == expected
    assert check_whole(out) == {"a", "b"}
    if change != "overwrite":
        assert upsample(pictures, "-o", out, *options).names("done") == []


@pytest.mark.parametrize("change", KEPT)
def test_a_result_is_replaced_only_if_that_is_asked_for(pictures: Path, out: Path, change: str) -> None:
    (happens, options), expected = KEPT[change]
    assert upsample(pictures, "-o", out).status == 0
    happens(pictures, out)
    before = contents(out)
    looked = upsample(pictures, "-o", out, "--dry-run", *options)
    refused = {Path(line["input"]).name: line["reason"] for line in looked.lines if line["action"] == "fail"}
    ran = upsample(pictures, "-o", out, *options)
    assert ran.status == 1
    assert ran.names("failed") == sorted(expected) == sorted(refused)
    for name, reason in expected.items():
        (error,) = [line["error"] for line in ran.lines if line["input"].endswith(name)]
        assert error == refused[name]
        assert error.endswith(f": {reason}; give --overwrite to replace it, or another --output")
        assert Path(error.partition(":")[0]).stem == Path(name).stem
    assert contents(out) == before
    assert upsample(pictures, "-o", out, *options, "--overwrite").status == 0
    assert upsample(pictures, "-o", out, *options).names("skipped") == ["a.png", "b.jpg"]


@pytest.mark.parametrize("change", FOREIGN)
def test_what_featup_did_not_make_is_never_replaced(pictures: Path, out: Path, change: str) -> None:
    (happens, options), name, reason = FOREIGN[change]
    assert upsample(pictures, "-o", out).status == 0
    happens(pictures, out)
    before = contents(out)
    for more, said in (([], reason), (["--overwrite"], "was not made by featup, so --overwrite doesn't replace it")):
        ran = upsample(pictures / "a.png", "-o", out, *options, *more)
        assert ran.status == 2
        assert ran.stderr.startswith(f"error: {out / name}: {said}")
        assert ran.stderr.endswith("; move it, or give another --output\n")
        assert contents(out) == before


def test_many_results_that_are_kept_are_told_in_few_lines(tmp_path: Path, out: Path) -> None:
    make_pictures(tmp_path / "in", numbered(8))
    upsample(tmp_path / "in", "-o", out)
    ran = upsample(tmp_path / "in", "-o", out, "--seed", 1)
    assert len(ran.names("failed")) == 8
    lines = ran.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines[:3]] == [str(out / f"0{i}.safetensors") for i in range(3)]
    assert lines[3:] == [
        "error: 5 more results exist already; give --overwrite to replace them, or another --output",
        "error: 8 of 8 images failed",
    ]


def test_what_a_model_adds_does_not_make_the_features_others(pictures: Path, out: Path) -> None:
    quick = ["--method", "implicit", "--set", "max_steps=2", "--set", "views=4", "--set", "heldout_views=1"]
    upsample(pictures / "a.png", "-o", out, *quick)
    assert upsample(pictures / "a.png", "-o", out, *quick, "--save-model").names("done") == ["a.png"]
    assert upsample(pictures / "a.png", "-o", out, *quick, "--save-model").names("skipped") == ["a.png"]
    assert upsample(pictures / "a.png", "-o", out, *quick).names("skipped") == ["a.png"]
    shutil.copy(out / "a.safetensors", out / "a.model.safetensors")
    assert upsample(pictures / "a.png", "-o", out, *quick, "--save-model").names("failed") == ["a.png"]


def test_a_dry_run_says_why_and_writes_nothing(pictures: Path, out: Path) -> None:
    ran = upsample(pictures, "none.jpg", "-o", out, "--dry-run")
    assert ran.status == 1
    assert [line["action"] for line in ran.lines] == ["make", "make", "fail"]
    assert not out.exists()
    upsample(pictures, "-o", out)
    again = upsample(pictures, "-o", out, "--dry-run", "--seed", 3, "--overwrite").lines
    assert [(line["action"], line["reason"]) for line in again] == [
        ("redo", "made with other settings: seed 0 -> 3")
    ] * 2


@pytest.mark.parametrize("options", [[], ["--storage", "factored"], ["--dtype", "float32", "--output-size", "image"]])
def test_a_dry_run_tells_the_size_of_files(pictures: Path, out: Path, options: list[str]) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a photograph taken upright: 40x56 is shown as 56x40
    Image.new("RGB", (40, 64)).save(pictures / "turned.jpg", exif=turned)
    (pictures / "bad.png").write_text("no picture")
    looked = upsample(pictures, "-o", out, "--dry-run", *options)
    told = {Path(line["output"]).name: line["bytes"] for line in looked.lines}
    assert told.pop("bad.safetensors") is None
    upsample(pictures, "-o", out, *options)
    for name, size in told.items():
        assert size == pytest.approx((out / name).stat().st_size - 16_384, abs=4_000)  # less the header
    shown = CliRunner().invoke(app, ["upsample", *FAST, str(pictures), "-o", str(out / "new"), "--dry-run", *options])
    assert f"(no features yet; about {format_bytes(told['a.safetensors'])})" in shown.stdout
    assert f"would create 4; feature files of about {format_bytes(sum(told.values()))} in all" in shown.stderr.replace(
        ", re-create 0, skip 0", ""
    )


def test_failures_stay_alone_and_are_told_in_one_line_each(pictures: Path, out: Path) -> None:
    (pictures / "bad.png").write_text("no picture")
    (pictures / "gone.png").symlink_to("nowhere")
    ran = upsample(pictures, "-o", out)
    assert ran.status == 1
    assert ran.by_name == {"a.png": "done", "b.jpg": "done", "bad.png": "failed", "gone.png": "failed"}
    assert [line.split(": ")[1] for line in ran.stderr.splitlines()[:2]] == [
        str(pictures / "bad.png"), str(pictures / "gone.png")
    ]  # fmt: skip
    assert "2 of 4 images failed" in ran.stderr
    assert check_whole(out) == {"a", "b"}


def test_fail_fast_stops_at_the_first_failure(tmp_path: Path, out: Path) -> None:
    make_pictures(tmp_path / "in", numbered(12))
    (tmp_path / "in" / "03.png").write_text("no picture")
    ran = upsample(tmp_path / "in", "-o", out, "--fail-fast")
    assert ran.status == 1
    assert ran.by_name == {"00.png": "done", "01.png": "done", "02.png": "done", "03.png": "failed"}
    assert "1 of 12 images failed; 8 not tried" in ran.stderr
    assert hidden_files(out) == []


def test_a_bug_with_one_picture_is_a_failure_of_that_picture(
    pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Pipeline.write

    def broken(self: Pipeline, look: object, *rest: object) -> object:
        if look.picture.source.endswith("a.png"):  # type: ignore[attr-defined]
            raise KeyError("oops")
        return write(self, look, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "write", broken)
    ran = upsample(pictures, "-o", out)
    assert ran.by_name == {"a.png": "failed", "b.jpg": "done"}
    assert f"error: {pictures / 'a.png'}: unexpected KeyError: 'oops'" in ran.stderr
    assert "Traceback" not in ran.stderr
    monkeypatch.setenv("FEATUP_DEBUG", "1")
    assert "Traceback" in upsample(pictures, "-o", out).stderr


def test_a_batch_that_fails_is_tried_one_by_one(pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract, sizes = Pipeline.extract, []

    def one_at_a_time(self: Pipeline, batch: list[object], plan: object) -> object:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise RuntimeError("out of memory")
        return extract(self, batch, plan)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "extract", one_at_a_time)
    assert upsample(pictures, "-r", "-o", out, "--batch", 3).names("done") == ["a.png", "b.jpg", "c.png"]
    assert sizes.count(1) == 3


def test_a_size_that_no_picture_can_have_ends_the_run_before_it_starts(pictures: Path, out: Path) -> None:
    for option in (["--output-size", "huge"], ["--resize", "99999"], ["--resize", "0x4"]):
        ran = upsample(pictures, "-o", out, *option)
        assert ran.status == 2
        assert len(ran.stderr.splitlines()) == 1
        assert option[0] in ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root can't write")
def test_a_folder_that_can_not_be_written_ends_the_run_in_one_line(pictures: Path) -> None:
    ran = upsample(pictures, "-o", "/proc/out")
    assert ran.status == 1
    assert len(ran.stderr.splitlines()) == 1
    assert "/proc/out" in ran.stderr


def test_shards_do_all_pictures_once(twelve: Path, out: Path) -> None:
    done = [upsample(twelve, "-o", out, "--shard", f"{i}/5").names("done") for i in range(1, 6)]
    assert sorted(name for part in done for name in part) == numbered(12)


def test_more_shards_than_pictures_are_no_error(pictures: Path, out: Path) -> None:
    assert upsample(pictures, "-o", out, "--shard", "3/3").lines == []


def test_python_gets_records(pictures: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = featup_cli.Upsampling(method="nearest", resize=32, device="cpu")
    records = list(featup_cli.upsample_many([pictures], out, settings=settings, recursive=True))
    assert [(record.status, record.shape) for record in records] == [("done", (96, 32, 48))] * 3
    assert [record.status for record in featup_cli.upsample_many([pictures], out, settings=settings)] == ["skipped"] * 2
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_unfinished_files_of_a_dead_run_are_removed_and_foreign_ones_kept(pictures: Path, out: Path) -> None:
    out.mkdir()
    unfinished = [".a-0123456789ab.safetensors", ".b.model-0123456789ab.safetensors", ".b-0123456789ab.png"]
    foreign = [".z-0123456789ab.safetensors", ".a-note.safetensors"]
    for name in (*unfinished, *foreign):
        (out / name).touch()
    upsample(pictures, "-o", out)
    assert hidden_files(out) == sorted(foreign)


def test_claims_are_by_picture_and_the_last_one_cleans_up(tmp_path: Path) -> None:
    first = Claims(tmp_path)
    assert first.take(str(tmp_path / "x.safetensors"))
    first.release(str(tmp_path / "x.safetensors"))
    first.close()
    assert hidden_files(tmp_path) == []
    (tmp_path / CLAIMS).touch()  # of a process that died
    Claims(tmp_path).close()
    assert hidden_files(tmp_path) == []
    nowhere = Claims(tmp_path / "none")
    assert nowhere.take("x.safetensors")
    nowhere.close()
