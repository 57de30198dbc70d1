"""`featup eval` and `featup compare`, end to end on small synthetic data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featup_cli.cli.app import app

COMMANDS = ("probe", "consistency", "boundary", "cam", "retrieval", "report")


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


@pytest.mark.parametrize(
    "command",
    [["probe", "--task", "seg"], ["probe", "--task", "depth"], ["boundary"], ["consistency"], ["retrieval"], ["cam"]],
    ids=" ".join,
)
def test_data_that_are_none_are_named_before_anything_else(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, said in (("nowhere", "no such f"), ("empty", "(is an empty folder|holds no pictures)"), ("file", "")):
        backbone = ["-b", "mobilenetv2_100", "--random-weights"] if command == ["cam"] else []
        status, _, stderr = featup("eval", *command, tmp_path / name, *backbone, "--no-cache", "-m", "nearest")
        assert status != 0
        assert len(stderr.splitlines()) == 1
        assert re.match(f"error: {tmp_path / name}: {said}", stderr), stderr


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


def test_compare_takes_one_number_for_a_square(photo: Path, tmp_path: Path) -> None:
    sizes = {}
    for asked in ("64", "64x64", "64x128"):
        target = tmp_path / f"{asked}.png"
        options = ("--methods", "nearest", "-o", target, "--resize", "64", "--device", "cpu", "--output-size", asked)
        assert featup("compare", photo, *options)[0] == 0
        with Image.open(target) as picture:
            sizes[asked] = picture.size
    assert sizes["64"] == sizes["64x64"] != sizes["64x128"]


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


def test_depth_probe_reads_depth_folders_and_refuses_options_of_classes(boxes: Path, options: list[object]) -> None:
    for label in (boxes / "labels").rglob("*.png"):
        ids = np.array(Image.open(label))
        millimetres = np.where(ids == 1, 1500, np.linspace(5000, 2000, 64)[:, None]).astype(np.uint16)
        (boxes / "depth" / label.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(millimetres).save(boxes / "depth" / label.parent.name / label.name)
    command = ["eval", "probe", "--task", "depth", boxes, "--methods", "nearest,bilinear", "--seeds", "1", *options]
    status, stdout, stderr = featup(*command, "--depth-scale", "1000", "--json")
    assert status == 0, stderr
    run = json.loads(stdout)
    assert run["task"] == "probe-depth"
    scores = run["methods"]["bilinear"]["scores"]
    assert 0 < scores["rmse"] < 2
    assert 0 < scores["delta"] <= 100
    assert json.loads(featup(*command, "--json")[1])["methods"]["bilinear"]["scores"]["rmse"] == pytest.approx(
        1000 * scores["rmse"], rel=1e-3
    )
    assert "RMSE ↓" in featup(*command)[1]
    status, _, stderr = featup(*command, "--thin", "box")
    assert (status, stderr) == (2, "error: --thin belongs to --task seg\n")
    np.save(boxes / "depth" / "val" / "v0.npy", np.zeros((64, 96)))
    (boxes / "depth" / "val" / "v0.png").unlink()
    status, stdout, stderr = featup(*command)
    assert (status, stdout) == (1, "")
    assert "v0.npy: has no valid pixel" in stderr


def test_cam_scores_maps_of_a_classifier_and_resumes(boxes: Path, options: list[object], tmp_path: Path) -> None:
    network = ["--backbone", "test_resnet", "--random-weights"]
    command = ["eval", "cam", boxes / "images" / "val", *network, "--methods", "nearest,bilinear", *options]
    status, stdout, stderr = featup(*command, "--json")
    assert status == 0, stderr
    run = json.loads(stdout)
    assert (run["task"], run["pictures"], run["settings"]["pooling"]) == ("cam", 2, "mean")
    assert run["backbone"]["features"] == "before pooling"
    result = run["methods"]["bilinear"]
    expected = [100 * max(y - o, 0) / y for y, o in zip(result["confidence"], result["masked"], strict=True)]
    assert [row["average_drop"] for row in result["per_picture"]] == pytest.approx(expected, rel=1e-3)
    assert result["scores"]["average_drop"] == pytest.approx(sum(expected) / 2, rel=1e-3)
    files = len(list((tmp_path / "cache").iterdir()))
    assert json.loads(featup(*command, "--json")[1])["methods"] == run["methods"]
    assert len(list((tmp_path / "cache").iterdir())) == files
    # With labels, those that the network classifies otherwise are left out.
    first, second = result["class"]
    listed = boxes / "images" / "val" / "list.txt"
    listed.write_text(f"v0.png {first}\nv1.png {second + 1}\n")
    status, stdout, stderr = featup(*command, "--labels", listed, "--json")
    run = json.loads(stdout)
    assert (run["pictures"], run["labelled"]) == (1, 2)


def test_cam_refuses_networks_without_classifier_and_classes_that_it_has_not(boxes: Path) -> None:
    status, _, stderr = featup("eval", "cam", boxes / "images" / "val", "--backbone", "tiny")
    assert status == 2
    assert "tiny has no classifier" in stderr
    assert "--backbone mobilenetv2" in stderr
    network = ["--backbone", "test_resnet", "--random-weights", "--device", "cpu"]
    status, _, stderr = featup("eval", "cam", boxes / "images" / "val", *network, "--class", "1000")
    assert (status, stderr) == (2, "error: --class 1000: test_resnet has the classes 0 to 999\n")


def test_retrieval_scores_labelled_pictures(boxes: Path, options: list[object]) -> None:
    command = ["eval", "retrieval", boxes, "--methods", "nearest,bilinear", *options]
    status, stdout, stderr = featup(*command, "--json", "--points", "5")
    assert status == 0, stderr
    run = json.loads(stdout)
    assert (run["task"], run["data"], run["split"], run["pictures"]) == ("retrieval", "boxes", "val", 2)
    result = run["methods"]["bilinear"]
    assert set(result["scores"]) == {"class_accuracy", "thin_accuracy", "accuracy"}
    assert result["scores"]["accuracy"] > 60
    assert [row["queries"] for row in result["of_class"].values()] == [10, 10]
    assert "thin accuracy ↑" in featup(*command)[1]


def test_retrieval_of_points_writes_a_picture(boxes: Path, tmp_path: Path) -> None:
    pictures = sorted((boxes / "images" / "val").iterdir())
    target = tmp_path / "found.png"
    command = ["eval", "retrieval", *pictures, "--methods", "nearest,bilinear", "--device", "cpu", "--resize", "64x96"]
    status, stdout, stderr = featup(*command, "--at", "30,30", "--at", "80,60", "-o", target, "--json")
    assert status == 0, stderr
    record = json.loads(stdout)
    assert record["picture"] == str(target)
    assert [(row["method"], row["at"]) for row in record["matches"]][::3] == [
        ("nearest", [30, 30]), ("bilinear", [80, 60]),
    ]  # fmt: skip
    with Image.open(target) as picture:
        assert picture.width > 3 * 96
    status, stdout, stderr = featup(*command, "--at", "30,30", "-o", target, "--overwrite")
    assert (status, stdout) == (0, f"{target}\n")
    assert "bilinear: 30,30 matches " in stderr


def test_retrieval_says_what_is_missing_or_does_not_belong(boxes: Path) -> None:
    a, b = sorted((boxes / "images" / "val").iterdir())
    before = b.read_bytes()
    for arguments, says in (
        ([a], "give a second picture"),
        ([a, b], "--at 120,80"),
        ([a, b, "--at", "12"], "--at 12: expected X,Y"),
        ([a, b, "--at", "1,1", "--split", "val"], "--split is for a folder"),
        ([a, b, "--at", "1,1", "-o", b], "would be overwritten"),
        ([boxes, "--at", "1,1"], "--at needs a second picture"),
    ):
        status, _, stderr = featup("eval", "retrieval", *arguments)
        assert status == 2, arguments
        assert says in stderr
    assert b.read_bytes() == before


def test_cam_of_mobilenet_reads_its_last_convolution(
    shared_mobilenet: Path, photo: Path, options: list[object]
) -> None:
    status, stdout, stderr = featup(
        "eval", "cam", photo, "--backbone", "mobilenetv2_100", "--weights", shared_mobilenet, "--methods", "bilinear",
        *options, "--json",
    )  # fmt: skip
    assert status == 0, stderr
    run = json.loads(stdout)
    assert (run["backbone"]["channels"], run["backbone"]["stride"]) == (1280, 32)
    assert 0 < run["methods"]["bilinear"]["confidence"][0] < 1
