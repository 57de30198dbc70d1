"""`featup eval` and `featup compare`, end to end on small synthetic data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featup_cli.cli.app import app

COMMANDS = ("probe", "consistency", "boundary", "report")


def featup(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def save_box(data: Path, split: str, name: str, left: int) -> None:
    """A bright box (class 1) on dark ground (class 0)."""
    labels = np.zeros((64, 96), dtype=np.uint8)
    labels[16:48, left : left + 40] = 1
    noise = np.random.default_rng(left).integers(0, 30, (64, 96, 3))
    pixels = (np.where(labels[..., None] == 1, (220, 190, 40), (20, 40, 90)) + noise).astype(np.uint8)
    for kind, array in (("images", pixels), ("labels", labels)):
        (data / kind / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(data / kind / split / f"{name}.png")


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    data = tmp_path / "boxes"
    for number, left in enumerate((5, 20, 40)):
        save_box(data, "train", f"t{number}", left)
    for number, left in enumerate((12, 33)):
        save_box(data, "val", f"v{number}", left)
    (data / "classes.json").write_text(json.dumps({"classes": ["ground", "box"], "thin": ["box"]}))
    return data


@pytest.fixture
def options(tmp_path: Path) -> list[object]:
    return ["--resize", "64x96", "--device", "cpu", "--cache", tmp_path / "cache"]


@pytest.mark.parametrize("command", [["eval"], ["compare"], *(["eval", name] for name in COMMANDS)], ids=" ".join)
def test_help_loads_no_torch(command: list[str]) -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom featup_cli.cli.app import app\n"
        f"result = CliRunner().invoke(app, {[*command, '--help']!r})\n"
        "assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_probe_writes_a_run_and_a_markdown_table_and_report_merges_runs(
    boxes: Path, options: list[object], tmp_path: Path
) -> None:
    run = tmp_path / "first.json"
    command = ["eval", "probe", "--task", "seg", boxes, "--methods", "nearest,bilinear", *options]
    status, stdout, stderr = featup(*command, "-o", run)
    assert status == 0, stderr
    assert "probe: " in stderr
    rows = [line for line in stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| method", "| ---", "| nearest", "| bilinear"]
    saved = json.loads(run.read_text())
    assert saved["task"] == "probe-seg"
    assert (saved["data"], saved["split"], saved["pictures"]) == ("boxes", "val", 2)
    assert saved["methods"]["bilinear"]["scores"]["thin_miou"] > 50
    assert {"torch", "featup-cli"} <= set(saved["versions"])
    status, stdout, _ = featup(*command, "--json", "--methods", "bilinear")
    assert json.loads(stdout)["methods"]["bilinear"]["per_picture"] == saved["methods"]["bilinear"]["per_picture"]
    (tmp_path / "second.json").write_text(stdout)
    status, stdout, _ = featup("eval", "report", run, tmp_path / "second.json")
    assert status == 0
    names = [line.split(" | ")[:2] for line in stdout.splitlines() if line.startswith("| ")][2:]
    assert names == [["| first", "nearest"], ["| first", "bilinear"], ["| second", "bilinear"]]


def spoil_size(data: Path) -> str:
    Image.new("L", (5, 5)).save(data / "labels" / "val" / "v0.png")
    return "v0.png"


def spoil_class(data: Path) -> str:
    Image.new("L", (96, 64), 17).save(data / "labels" / "train" / "t1.png")
    return "t1.png"


def spoil_pair(data: Path) -> str:
    (data / "labels" / "val" / "v1.png").unlink()
    return "v1.png"


def spoil_void(data: Path) -> str:
    Image.new("L", (96, 64), 255).save(data / "labels" / "val" / "v0.png")
    return "v0.png"


@pytest.mark.parametrize("spoil", [spoil_size, spoil_class, spoil_pair, spoil_void], ids=lambda f: f.__name__)
def test_bad_labels_end_the_run_with_a_line_that_names_the_file(boxes: Path, options: list[object], spoil) -> None:  # type: ignore[no-untyped-def]
    name = spoil(boxes)
    status, stdout, stderr = featup("eval", "probe", "--task", "seg", boxes, "--methods", "nearest", *options)
    assert status == 1
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert name in stderr


def test_unknown_splits_methods_and_classes_are_wrong_usage(boxes: Path, options: list[object]) -> None:
    for extra in (["--split", "test"], ["--methods", "magic"], ["--thin", "pole"], ["--upsampler", "file"]):
        status, _, stderr = featup("eval", "probe", "--task", "seg", boxes, *options, *extra)
        assert status == 2, extra
        assert extra[1] in stderr


def test_consistency_needs_pictures_only(boxes: Path, options: list[object]) -> None:
    quick = ["--set", "views=5", "--set", "heldout_views=2", "--set", "max_steps=3", "--set", "tokens=32"]
    status, stdout, stderr = featup(
        "eval", "consistency", boxes / "images" / "val", "--methods", "bilinear,implicit", *options, *quick, "--json"
    )
    assert status == 0, stderr
    run = json.loads(stdout)
    assert set(run["methods"]) == {"bilinear", "implicit"}
    assert all(result["scores"]["explained"] <= 100 for result in run["methods"].values())
    assert "over_bilinear" in run["methods"]["implicit"]


def test_boundary_scores_edges_of_features(boxes: Path, options: list[object]) -> None:
    (boxes / "boundaries" / "val").mkdir(parents=True)
    for label in (boxes / "labels" / "val").iterdir():
        ids = np.array(Image.open(label)).astype(int)
        drawn = np.zeros((2, *ids.shape), dtype=np.uint8)
        drawn[:, 1:] |= (np.diff(ids, axis=0) != 0).astype(np.uint8)
        drawn[:, :, 1:] |= (np.diff(ids, axis=1) != 0).astype(np.uint8)
        np.savez(boxes / "boundaries" / "val" / f"{label.stem}.npz", boundaries=drawn)
    command = ["eval", "boundary", boxes, "--methods", "nearest,bilinear", *options, "--json"]
    status, stdout, stderr = featup(*command)
    assert status == 0, stderr
    scores = json.loads(stdout)["methods"]["bilinear"]["scores"]
    assert 0 < scores["ods"] <= 100
    assert {"ois", "precision", "recall"} < set(scores)
    np.savez(boxes / "boundaries" / "val" / "v1.npz", boundaries=drawn[:, :40])
    status, _, stderr = featup(*command)
    assert status == 1
    assert "v1.npz: 40x96 pixels, but its picture v1.png has 64x96" in stderr


def test_compare_puts_all_methods_in_one_picture(photo: Path, tmp_path: Path) -> None:
    sizes = []
    for methods in ("bilinear", "bilinear,nearest"):
        target = tmp_path / f"{methods}.png"
        status, stdout, stderr = featup(
            "compare", photo, "--methods", methods, "-o", target, "--resize", "64", "--device", "cpu", "--json"
        )
        assert status == 0, stderr
        record = json.loads(stdout)
        assert [row["method"] for row in record["methods"]] == methods.split(",")
        assert all(row["seconds"] > 0 for row in record["methods"])
        with Image.open(target) as picture:
            sizes.append(picture.size)
    assert sizes[1][0] > sizes[0][0]
    assert sizes[1][1] == sizes[0][1]


def test_compare_does_not_overwrite_its_picture(photo: Path) -> None:
    before = photo.read_bytes()
    status, _, stderr = featup("compare", photo, "-o", photo)
    assert status == 2
    assert "would be overwritten" in stderr
    assert photo.read_bytes() == before


def test_report_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    status, _, stderr = featup("eval", "report", tmp_path / "a.json")
    assert status == 1
    assert "a.json" in stderr


def test_camvid_is_read_as_it_lies(shared_camvid: Path, options: list[object]) -> None:
    status, stdout, stderr = featup(
        "eval", "probe", "--task", "seg", shared_camvid, "--limit", "2", "--train-limit", "3", "--methods", "bilinear",
        "--seeds", "0", "--thin", "pole,pedestrian", "--json", *options, "--resize", "96x128",
    )  # fmt: skip
    assert status == 0, stderr
    result = json.loads(stdout)["methods"]["bilinear"]
    assert 10 < result["scores"]["miou"] < 100
    assert "road" in result["iou"]
