"""`featup train` on the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featup_cli.cli.app import app

FAST = [
    part
    for setting in (
        "crop_size=32", "views=2", "steps=3", "batch=1", "tokens=8", "positions=4", "projection=4",
        "pixels_per_token=2", "check_interval=2", "check_tokens=8", "upsampler.radius=1",
    )
    for part in ("--set", setting)
]  # fmt: skip


def featup(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command, run in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_help_loads_no_torch() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom featup_cli.cli.app import app\n"
        "result = CliRunner().invoke(app, ['train', '--help'])\nassert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'safetensors'} & set(sys.modules)\nassert not heavy, heavy\n"
        "print(result.output)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for part in ("--images", "--resume", "--set", "Examples", "torchrun"):
        assert part in done.stdout


def test_training_names_the_weights_and_tells_how_it_went(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"nothing")
    output = tmp_path / "up.safetensors"
    status, stdout, stderr = featup("train", "--images", folder, "-o", output, *FAST)
    assert status == 0
    assert stdout.split() == [str(output)]
    for part in ("skipped: ", "broken.png", "step 2 of 3", "2 pictures, 2 held out, 1 skipped", "bilinear"):
        assert part in stderr
    assert stderr.count("broken.png") == 1
    status, stdout, _ = featup(
        "upsample", folder / "0.png", "--method", "jbu", "--upsampler", output, "--resize", "32", "-o", tmp_path, "-q"
    )
    assert status == 0


def test_json_gives_one_record(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "up.safetensors"
    status, stdout, stderr = featup("train", "--images", folder, "-o", output, "--json", *FAST)
    assert status == 0
    assert not stderr
    record: dict[str, Any] = json.loads(stdout)
    assert record["output"] == str(output)
    assert record["run_folder"] == str(tmp_path / "up.run")
    assert record["pictures"] == 2
    assert set(record["scores"]) == {"explained_variance", "bilinear_explained_variance"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--set", "stepz=3"], 2, "--set stepz=3: expected KEY=VALUE with KEY one of "),
        (["--set", "steps=0"], 2, "steps=0: must be above 0"),
        (["--set", "upsampler.r=3"], 2, "--set upsampler.r=3: expected KEY=VALUE with KEY one of upsampler.radius, "),
        (["--set", "upsampler.radius=wide"], 2, "upsampler.radius=wide: expected a whole number"),
        (["--set", "downsampler=best"], 2, "choose from simple, attention"),
        (["--set", "target=teacher"], 2, "target=teacher: choose from views, jbu"),
        (["--images", "nowhere"], 1, "nowhere: no such folder"),
        (["--backbone", "no-such-network"], 2, "no-such-network"),
        (["--resume", "--weights", "nowhere.safetensors"], 1, "nowhere.safetensors"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(arguments: list[str], status: int, message: str, folder: Path, tmp_path: Path) -> None:
    result = featup("train", "--images", folder, "-o", tmp_path / "up.safetensors", *FAST, *arguments)
    assert result[0] == status
    assert message in result[2]
    errors = [line for line in result[2].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result[2]


def test_a_lonely_process_of_several_is_wrong_usage(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, stderr = featup("train", "--images", folder, "-o", tmp_path / "up.safetensors", *FAST)
    assert status == 2
    assert stderr.startswith("error: WORLD_SIZE=2 means several processes, but RANK, ")


@pytest.mark.parametrize("others", [{}, {"WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}], ids=str)
def test_a_rank_that_is_no_number_is_one_line(
    others: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "abc", **others}.items():
        monkeypatch.setenv(name, value)
    status, _, stderr = featup("train", "--images", folder, "-o", tmp_path / "up.safetensors", *FAST)
    assert status == 2
    assert stderr.startswith("error: RANK=abc")
    assert "must be whole numbers, as torchrun sets them" in stderr
    assert len(stderr.splitlines()) == 1


def test_an_empty_folder_fails(tmp_path: Path) -> None:
    status, _, stderr = featup("train", "--images", tmp_path, "-o", tmp_path / "up.safetensors")
    assert status == 1
    assert stderr.startswith("error: no pictures below")


def test_ctrl_c_says_how_to_go_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featup_cli.training.trainer import Trainer

    load = Trainer._load

    def interrupt(self: Trainer, step: int) -> Any:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return load(self, step)

    monkeypatch.setattr(Trainer, "_load", interrupt)
    command = ("train", "--images", folder, "-o", tmp_path / "up.safetensors", *FAST)
    status, stdout, stderr = featup(*command)
    assert status == 130
    assert not stdout
    assert "saved; resume with the same command and --resume" in stderr
    monkeypatch.undo()
    status, stdout, stderr = featup(*command, "--resume")
    assert status == 0
    assert "resuming after step" in stderr
