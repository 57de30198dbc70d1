"""What is answered before libraries are loaded, which takes seconds, and how a process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from featup_cli.engine.pipeline import upsample

WATCHED = {"torch", "timm", "torch._dynamo", "numba", "scipy.linalg", "huggingface_hub.hf_api"}
PROGRAM = f"""
import sys
from featup_cli.__main__ import main
try:
    main()
finally:
    print("loaded:", *sorted({WATCHED} & set(sys.modules)), file=sys.stderr)
"""


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command line; the last line of stderr names what was loaded of `WATCHED`.

    It sees no GPU of NVIDIA.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["upsample", "nope.jpg"], 1, "nope.jpg: no such file"),
        (["upsample", "s3://bucket/a.jpg"], 2, "s3://bucket/a.jpg: is not a path"),
        (["upsample", "PHOTO", "--resize", "0"], 2, "--resize 0: must be at least 1 pixel"),
        (["upsample", "PHOTO", "--resize", "wide"], 2, "--resize wide: expected HEIGHTxWIDTH"),
        (["upsample", "PHOTO", "--output-size", "big"], 2, "--output-size big: expected `image`"),
        (["render", "PHOTO", "--output-size", "big"], 2, "--output-size big: expected `image`"),
        (["compare", "PHOTO", "--output-size", "0"], 2, "--output-size 0: expected `image`"),
        (["upsample", "PHOTO", "--weights", "nope.pt"], 1, "--weights nope.pt: no such file"),
        (["upsample", "PHOTO", "--mask", "nope.png"], 1, "--mask nope.png: no such file"),
        (["upsample", "PHOTO", "-o", __file__], 1, f"{__file__}: can't be written: it is a file"),
        (["upsample", "PHOTO", "-o", "o7.safetensors"], 2, "-o o7.safetensors: give a folder"),
        (["upsample", "PHOTO", "-m", "jbu", "--max-steps", "10"], 2, "--max-steps: method jbu has no such setting"),
        (["upsample", "PHOTO", "-m", "jbu", "--preset", "default"], 2, "--preset: method jbu has no such setting"),
        (["upsample", "PHOTO", "-m", "jbu", "--no-uncertainty"], 2, "--uncertainty/--no-uncertainty: method jbu has"),
        (["upsample", "PHOTO", "-m", "guided", "--upsampler", "x.st"], 2, "--upsampler: method guided has no such"),
        (["upsample", "PHOTO", "--allow-other-backbone"], 2, "--allow-other-backbone: method implicit has no such"),
        (["upsample", "PHOTO", "-m", "jbu", "--save-model"], 2, "--save-model: method jbu has no such setting"),
        (["upsample", "PHOTO", "--weights", __file__, "--random-weights"], 2, f"--weights {__file__} and --random"),
        (
            ["compare", "PHOTO", "-m", "jbu,guided", "--preset", "paper"],
            2,
            "--preset: methods jbu, guided have no",
        ),
        (["compare", "PHOTO", "-m", "guided", "--upsampler", "jbu=x"], 2, "--upsampler: method guided has no such"),
        (["compare", "PHOTO", "-m", "resfu", "--upsampler", "jbu=x"], 2, "--upsampler jbu=x: jbu is not among"),
        (["eval", "probe", "--task", "seg", ".", "--set", "views=9"], 2, "--set: methods nearest, bilinear,"),
        (["bench", "--suite", "pipeline", "--dtype", "float16"], 2, "--dtype: --suite pipeline doesn't read it"),
        (["visualize", "x.st", "y.st", "--layout", "plain", "--image", "PHOTO"], 2, "--image: --layout plain"),
        (["compare", "nope.jpg"], 1, "nope.jpg: no such file"),
        (["render", "nope.st"], 1, "nope.st: no such file"),
        (["visualize", "nope.st"], 1, "nope.st: no such file"),
        (["visualize", "PHOTO", "--image", "nope.jpg"], 1, "--image nope.jpg: no such file"),
        (["visualize", "PHOTO", "--basis", "nope.st"], 1, "--basis nope.st: no such file"),
        (["render", "PHOTO", "--basis", "nope.st"], 1, "--basis nope.st: no such file"),
        (["upsample", "PHOTO", "--basis", "nope.st"], 1, "--basis nope.st: no such file"),
        (["upsample", "PHOTO", "--basis", __file__], 1, f"{__file__}: is not a safetensors file"),
        (["upsample", "PHOTO", "--basis", "both", "--save-basis", "x.png"], 2, "--save-basis x.png: give a name"),
        (["upsample", "PHOTO", "--save-basis", "x.png"], 2, "--save-basis x.png: give a name"),
        (["upsample", "PHOTO", "--save-basis", "x.safetensors", "--shard", "1/2"], 2, "--save-basis: a shard"),
        (["export", "nope.st", "--to", "npy"], 1, "nope.st: no such file"),
        (["import-weights", "nope.ckpt", "-o", "x.safetensors"], 1, "nope.ckpt: no such file"),
        (["train", "--images", ".", "-o", "x.safetensors", "--init", "nope.st"], 1, "--init nope.st: no such file"),
        (["eval", "report", "nope.json"], 1, "nope.json: no such file"),
        (["info", "nope.st"], 1, "nope.st: no such file"),
        (["upsample", "PHOTO", "-b", "nosuch"], 2, "unknown backbone 'nosuch'; `featup info` lists"),
        (["upsample", "PHOTO", "-b", "resnet_50"], 2, "unknown backbone 'resnet_50'; did you mean resnet50"),
        (["upsample", "PHOTO", "-b", "a/b"], 2, "unknown backbone 'a/b': write hf-hub:a/b"),
        (["upsample", "PHOTO", "-b", "hub:a"], 2, "unknown backbone 'hub:a': a reference is hf-hub:OWNER/NAME"),
        (["upsample", "PHOTO", "-b", "local-dir:nope"], 1, "local-dir:nope: the folder has no config.json"),
        (["upsample", "PHOTO", "--layer", "5"], 2, "layer 5 is out of range: tiny has one"),
        (["upsample", "PHOTO", "--backbone-arg", "a=1"], 2, "tiny takes no --backbone-arg, but got: a"),
        (["upsample", "PHOTO", "--weights", __file__, "--random-weights"], 2, "--weights "),
        (["compare", "PHOTO", "-b", "nosuch"], 2, "unknown backbone 'nosuch'"),
        (["train", "--images", ".", "-o", "x.safetensors", "-b", "nosuch"], 2, "unknown backbone 'nosuch'"),
        (["eval", "consistency", ".", "-b", "nosuch"], 2, "unknown backbone 'nosuch'"),
        (["upsample", "PHOTO", "--device", "nosuch"], 2, "--device nosuch: not available here; `featup info` lists"),
        (["upsample", "PHOTO", "--device", "cuda"], 2, "--device cuda: not available here; `featup info` lists"),
        (["upsample", "PHOTO", "--device", "cuda:7"], 2, "--device cuda:7: not available here"),
        (["upsample", "PHOTO", "--devices", "0,1"], 2, "--device cuda:0: not available here"),
        (["upsample", "PHOTO", "--devices", "0;1"], 2, "--devices 0;1: expected GPU numbers"),
        (["render", __file__, "--device", "nosuch"], 2, "--device nosuch: not available here"),
        (["bench", "--device", "nosuch"], 2, "--device nosuch: not available here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_that_need_no_library_come_before_it(photo: Path, arguments: list[str], status: int, said: str) -> None:
    found, _, stderr = run(*(photo if word == "PHOTO" else word for word in arguments))
    *lines, loaded = stderr.splitlines()
    assert (found, loaded.strip()) == (status, "loaded:")
    assert lines[-1].startswith(f"error: {said}")
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("more", "said"), [([], True), (["--quiet"], False), (["--json"], False)], ids=str)
@pytest.mark.parametrize("command", ["upsample", "compare", "eval consistency"])
def test_a_line_comes_before_libraries_load(
    photo: Path, tmp_path: Path, command: str, more: list[str], said: bool
) -> None:
    name = "vit_tiny_patch16_224"  # whose weights are not at hand
    _, _, stderr = run(*command.split(), photo, "-b", name, "--offline", "-o", tmp_path / "o", *more)
    first, *_, last = stderr.splitlines()
    assert (first == f"loading {name} ...") == said
    assert "torch" in last
    assert stderr.count("loading") == said


def test_files_are_described_without_torch(photo: Path, tmp_path: Path) -> None:
    saved = upsample(photo, method="bilinear").save(tmp_path / "a.safetensors")
    status, stdout, stderr = run("info", saved)
    assert (status, stderr.splitlines()[-1].strip()) == (0, "loaded:")
    assert "kind                  features" in stdout


def test_a_missing_picture_among_others_is_a_record_of_the_run(photo: Path, tmp_path: Path) -> None:
    status, stdout, stderr = run("upsample", photo, "nope.jpg", "-o", tmp_path, "--method", "bilinear")
    assert status == 1
    assert "error: nope.jpg: no such file" in stderr
    assert Path(stdout.splitlines()[0]).exists()


@pytest.mark.parametrize(
    ("options", "loaded"),
    [
        (["--method", "jbu"], "numba torch"),
        (["-b", "resnet18", "--random-weights", "--method", "bilinear"], "huggingface_hub.hf_api timm torch"),
    ],
    ids=["kernels", "timm"],
)
def test_parts_of_libraries_that_nothing_needs_stay_out(
    photo: Path, tmp_path: Path, options: list[str], loaded: str
) -> None:
    status, _, stderr = run("upsample", photo, "-o", tmp_path, *options)
    assert (status, stderr.splitlines()[-1]) == (0, f"loaded: {loaded}")


@pytest.mark.parametrize(
    ("program", "environment", "expected"),
    [
        ("import featup_cli", {}, "1500"),
        ("import featup_cli", {"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
        ("import featup_cli", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("import torch, featup_cli", {}, "None"),
    ],
    ids=["by default", "the user's policy", "the user's count", "too late"],
)
def test_threads_wait_without_much_spinning_unless_the_user_decided(
    program: str, environment: dict[str, str], expected: str
) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    program += "; import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=kept | environment
    )
    assert done.stdout.strip() == expected
