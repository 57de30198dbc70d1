"""The command line, end to end, in processes of its own where start-up or exit status matter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from featup_cli.backbones.tiny.network import TinyNet
from featup_cli.cli.app import app
from featup_cli.cli.info import describe_lines
from featup_cli.io.features import load_features
from featup_cli.io.header import read_provenance

FAST = ["--max-steps", "4", "--views", "6", "--set", "tokens=32", "--set", "hidden=16"]
SMALL = ["--resize", "64", "-q"]


def featup(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command, run in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def run_process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "featup_cli", *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "command", [[], ["upsample"], ["render"], ["visualize"], ["info"], ["import-weights"]], ids=str
)
def test_help_loads_no_torch(command: list[str]) -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom featup_cli.cli.app import app\n"
        f"result = CliRunner().invoke(app, {[*command, '--help']!r})\n"
        "assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'sklearn', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\nprint(result.output)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_help_is_grouped_and_shows_defaults_and_examples() -> None:
    _, text, _ = featup("upsample", "--help")
    for part in ("Backbone", "Method", "Output", "Run", "default: tiny", "Examples"):
        assert part in text


def test_upsample_writes_features_and_picture(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, stdout, stderr = featup("upsample", photo, "-o", out, "--resize", "64", *FAST)
    assert status == 0
    assert stdout.split() == [str(out / "photo.safetensors"), str(out / "photo.png")]
    assert "tiny" in stderr
    assert "dinov2" in stderr
    with safe_open(out / "photo.safetensors", "pt") as file:
        assert set(file.keys()) == {"features", "lr_features", "uncertainty", "saliency", "kernels"}
        assert file.get_slice("features").get_shape() == [96, 64, 80]
        assert file.get_slice("features").get_dtype() == "F16"
        assert file.get_slice("lr_features").get_shape() == [96, 4, 5]
        assert file.get_slice("uncertainty").get_shape() == [4, 5]
    facts = read_provenance(out / "photo.safetensors")
    assert facts["input"]["size"] == [72, 96]
    assert facts["network_size"] == facts["output_size"] == [64, 80]
    assert facts["backbone"]["resolved"] == "tiny"
    assert len(facts["backbone"]["weights_sha256"]) == 64
    assert facts["settings"]["max_steps"] == 4
    assert {"explained_variance", "bilinear_explained_variance"} <= set(facts["scores"])
    with Image.open(out / "photo.png") as picture:
        assert picture.width > 2 * picture.height
    assert sorted(p.name for p in out.iterdir()) == ["photo.png", "photo.safetensors"]


def test_the_line_of_the_backbone_tells_the_weights_in_use(photo: Path, tmp_path: Path) -> None:
    torch.save(TinyNet().state_dict(), tmp_path / "mine.pt")
    own = ["--weights", tmp_path / "mine.pt"]
    for more, said in (
        ([], ""),
        (["--random-weights"], ", random weights, for tests only"),
        (own, f", weights of {own[1]}"),
    ):
        command = ["upsample", photo, "-o", tmp_path, "--resize", "32", "--method", "nearest", "--overwrite", *more]
        line = featup(*command)[2].splitlines()[0]
        assert line.startswith(f"backbone tiny (tiny{said}, 96 channels")
        assert ("dinov2" in line) == (not more)  # advice to take better weights is for users of the published ones


@pytest.mark.parametrize(
    ("asked", "expected"), [("image", (72, 96)), ("33x7", (33, 7)), ("40", (40, 40)), ("2x", (8, 10))]
)
def test_output_sizes_are_exact(photo: Path, tmp_path: Path, asked: str, expected: tuple[int, int]) -> None:
    assert featup("upsample", photo, "-o", tmp_path, "--method", "bilinear", "--output-size", asked, *SMALL)[0] == 0
    assert tuple(load_features(tmp_path / "photo.safetensors").features.shape[1:]) == expected


def test_factored_storage_expands_to_the_same_features(photo: Path, tmp_path: Path) -> None:
    common = ["upsample", photo, *SMALL, *FAST, "--dtype", "float32"]
    assert featup(*common, "-o", tmp_path / "full")[0] == 0
    assert featup(*common, "-o", tmp_path / "factored", "--storage", "factored")[0] == 0
    full, factored = (load_features(tmp_path / kind / "photo.safetensors").features for kind in ("full", "factored"))
    np.testing.assert_allclose(full.numpy(), factored.numpy(), atol=2e-3)


def test_a_saved_model_renders_the_same_features_and_other_sizes(photo: Path, tmp_path: Path) -> None:
    assert featup("upsample", photo, *SMALL, *FAST, "-o", tmp_path, "--save-model")[0] == 0
    model = tmp_path / "photo.model.safetensors"
    assert model.stat().st_size < 1_000_000
    status, stdout, _ = featup("render", model, "-o", tmp_path)
    first = load_features(tmp_path / "photo.safetensors").features
    assert status == 0
    beside = tmp_path / "photo.{}x{}.safetensors".format(*first.shape[1:])
    assert stdout.splitlines() == [str(beside), str(beside.with_suffix(".png"))]
    again = load_features(beside).features
    np.testing.assert_allclose(first.float().numpy(), again.float().numpy(), atol=2e-2)
    for asked, shape in (("200x301", (96, 200, 301)), ("50", (96, 50, 50))):
        assert featup("render", model, "-o", tmp_path / asked, "-q", "--output-size", asked, "--no-picture")[0] == 0
        assert load_features(tmp_path / asked / f"photo.{shape[1]}x{shape[2]}.safetensors").features.shape == shape


def test_json_is_one_line_an_image_on_stdout_and_nothing_else(photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.open(photo).save(other)
    (tmp_path / "bad.jpg").write_text("no picture")
    status, stdout, _ = featup(
        "upsample", photo, tmp_path / "bad.jpg", other, "-o", tmp_path / "o", "--json", "--method", "nearest",
        "--resize", "64",
    )  # fmt: skip
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert status == 1
    assert [Path(line["input"]).name for line in lines] == ["photo.jpg", "bad.jpg", "other.png"]
    assert "error" in lines[1]
    assert all(Path(line["output"]).exists() for line in (lines[0], lines[2]))


def make_bad_inputs(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    paths = {name: folder / f"{name}.jpg" for name in ("empty", "text", "folder", "truncated", "strip", "missing")}
    paths["empty"].touch()
    paths["text"].write_text("hello")
    paths["folder"].mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "whole.png")
    paths["truncated"].write_bytes((folder / "whole.png").read_bytes()[:3000])
    Image.new("RGB", (4000, 3)).save(paths["strip"])
    return paths


@pytest.mark.parametrize("kind", ["empty", "text", "folder", "truncated", "strip", "missing"])
def test_bad_pictures_get_one_line_and_leave_nothing(kind: str, tmp_path: Path) -> None:
    path, out = make_bad_inputs(tmp_path / "in")[kind], tmp_path / "out"
    status, stdout, stderr = featup("upsample", path, "-o", out, "--method", "bilinear", "-q")
    assert status in (1, 2)
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith("error: ")
    assert path.name in stderr
    assert not out.exists()


def test_a_single_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    assert featup("upsample", tmp_path / "dot.png", "-o", tmp_path / "o", *SMALL, *FAST)[0] == 0
    features = load_features(tmp_path / "o" / "dot.safetensors").features
    assert features.shape == (96, 64, 64)


def test_other_pictures_are_still_done_when_one_fails(photo: Path, tmp_path: Path) -> None:
    bad = make_bad_inputs(tmp_path / "in")["truncated"]
    status, _, stderr = featup("upsample", bad, photo, "-o", tmp_path / "o", "--method", "bilinear", *SMALL)
    assert status == 1
    assert "1 of 2 images failed" in stderr
    assert (tmp_path / "o" / "photo.safetensors").exists()


def test_two_pictures_of_one_name_are_refused_before_any_work(photo: Path, tmp_path: Path) -> None:
    twin = tmp_path / "photo.png"
    Image.open(photo).save(twin)
    status, _, stderr = featup("upsample", photo, twin, "-o", tmp_path / "o")
    assert status == 2
    assert "rename one" in stderr


def test_a_picture_is_never_overwritten_by_its_own_result(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "blue").save(path)
    before = path.read_bytes()
    status, _, stderr = featup("upsample", path, "-o", tmp_path, "--method", "bilinear", *SMALL)
    assert status == 2
    assert "would be overwritten" in stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output-size", "huge"], "--output-size"),
        (["--resize", "0"], "--resize"),
        (["--device", "warp"], "--device"),
        (["--set", "hiden=3"], "hiden"),
        (["--backbone-arg", "pad"], "pad"),
        (["--backbone", "dinoo"], "dino"),
        (["--method", "bilinear", "--save-model"], "--save-model"),
        (["--layer", "7"], "layer"),
    ],
    ids=lambda v: v if isinstance(v, str) else " ".join(v),
)
def test_wrong_usage_exits_with_2_and_says_which_option(
    photo: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    status, _, stderr = featup("upsample", photo, "-o", tmp_path / "o", "-q", *arguments)
    assert status == 2
    assert says in stderr
    assert "Traceback" not in stderr


def test_weights_that_can_not_be_had_name_the_ways_out(photo: Path, tmp_path: Path) -> None:
    status, _, stderr = featup(
        "upsample", photo, "-o", tmp_path / "o", "-q", "--offline", "--backbone", "vit_tiny_patch16_224"
    )
    assert status == 1
    assert "--weights" in stderr
    assert "--random-weights" in stderr


def test_an_unwritable_output_is_one_line(photo: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    status, _, stderr = featup("upsample", photo, "-o", blocker, "--method", "bilinear", *SMALL)
    assert status == 1
    assert len(stderr.splitlines()) == 1
    assert "file" in stderr


def test_a_local_weights_file_runs_end_to_end(shared_mobilenet: Path, photo: Path, tmp_path: Path) -> None:
    status, _, stderr = featup(
        "upsample", photo, "-o", tmp_path, *SMALL, *FAST, "--backbone", "mobilenetv2_100", "--layer", "3",
        "--weights", shared_mobilenet,
    )  # fmt: skip
    assert status == 0, stderr
    facts = read_provenance(tmp_path / "photo.safetensors")
    assert (facts["backbone"]["channels"], facts["grid"]) == (96, [4, 5])


def test_visualize_gives_files_one_basis_and_refuses_bad_ones(photo: Path, tmp_path: Path) -> None:
    assert featup("upsample", photo, "-o", tmp_path, *SMALL, *FAST)[0] == 0
    features = tmp_path / "photo.safetensors"
    for extra, name in (
        (["--components", "4-6"], "pca.4-5-6"),
        (["--layout", "overlay"], "pca.overlay"),
        (["--show", "features,downsampler"], "pca.features.downsampler"),
    ):
        status, stdout, _ = featup("visualize", features, "-o", tmp_path / "p", *extra)
        assert (status, stdout.strip()) == (0, str(tmp_path / "p" / f"photo.{name}.png"))
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\xff" * 64)
    status, _, stderr = featup("visualize", garbage)
    assert status == 1
    assert "garbage.safetensors" in stderr
    assert len(stderr.splitlines()) == 1


def test_info_lists_what_there_is() -> None:
    status, stdout, _ = featup("info", "--json")
    facts = json.loads(stdout)
    assert status == 0
    assert {"tiny", "dino", "dinov2", "clip", "resnet50"} <= {row["alias"] for row in facts["backbones"]}
    assert {"backend": "reference", "device": "cpu", "status": "would run"} in facts["kernels"]
    paper = {"upsampler": "paper", "method": "jbu", "for": "any backbone", "where": "in the package"}
    assert paper in facts["upsamplers"]
    about = next(row["about"] for row in facts["methods"] if row["method"] == "jbu")
    assert "a colour kernel behind a sharpening, six numbers tuned, not trained" in about
    assert "tiny" in featup("info")[1]


def test_info_of_a_file_tells_each_fact_once() -> None:
    file = {"file": "a.st", "kind": "upsampler weights", "method": "m", "config": {"sizes": [1], "radius": 2.0}}
    made = {"method": "m", "upsampler": {"sizes": [1]}, "request": {"seed": 3}, "seed": 3, "scores": {"steps": 150.0}}
    lines = [" ".join(line.split()) for line in describe_lines({**file, "tensors": {}, "provenance": made})]
    assert lines == [
        *("a.st", "kind upsampler weights", "method m", "config sizes [1], radius 2"),
        *("provenance", "seed 3", "scores steps 150"),
    ]


def test_an_interrupt_exits_with_130_and_leaves_nothing(samples: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "featup_cli", "upsample", str(samples / "rocket.jpg"), "-o", str(tmp_path / "o"),
        "--max-steps", "100000", "--set", "patience=100000",
    ]  # fmt: skip

    def accept_interrupts() -> None:
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=accept_interrupts) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "loading tiny ...\n"
        assert "backbone tiny" in process.stderr.readline()  # the work has begun
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert rest.strip() == "interrupted"
    assert not (tmp_path / "o").exists()


def test_module_and_version_work_in_a_process_of_their_own() -> None:
    done = run_process("--version", env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 0
    assert done.stdout.strip().count(".") == 2


def test_the_documented_picture_has_the_colours_that_the_command_makes(samples: Path, tmp_path: Path) -> None:
    """Colours turn with the signs of components. Their scale depends on the method, so channels are correlated."""
    assert featup("upsample", samples / "rocket.jpg", "-o", tmp_path, "--method", "bilinear", "-q")[0] == 0
    # Of the low-resolution panel, without its title: fonts differ between versions of Pillow.
    made, documented = (
        np.asarray(Image.open(path).convert("RGB"), dtype=float)[80:480, 700:1300].reshape(-1, 3)
        for path in (tmp_path / "rocket.png", samples.parent / "docs" / "result.png")
    )
    for channel in range(3):
        assert np.corrcoef(made[:, channel], documented[:, channel])[0, 1] > 0.7  # -0.9 with another sign
