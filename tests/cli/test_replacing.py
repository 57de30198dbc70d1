"""No command replaces a file without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featup_cli.cli.app import Commands
from featup_cli.cli.evaluate import COMMANDS, EXTRAS
from featup_cli.cli.evaluate.commands import make_command
from featup_cli.core.references import resolve
from featup_cli.io.replace import may_be_ours
from featup_cli.pictures.panels import save_png
from tests.cli.test_cli import FAST, SMALL, featup

CALLS: dict[str, tuple[str, ...]] = {
    "render": ("photo.model.safetensors", "-o", "."),
    "visualize": ("photo.safetensors", "-o", "."),
    "compare": ("photo.jpg", "-o", "mine.png"),
    "export": ("photo.safetensors", "--to", "npy", "-o", "mine.npy"),
    "bench": ("--shape", "1x4x4x1", "--json", "mine.json"),
    "import-weights": ("photo.model.safetensors", "-o", "mine.safetensors"),
    "train": ("--images", ".", "-o", "mine.safetensors"),
    "eval consistency": (".", "-o", "mine.json"),
    "eval retrieval": ("photo.jpg", "photo.jpg", "--at", "1,1", "-o", "mine.png"),
}
"""A call of every command that writes one file; `upsample` has tests of its own."""
MADE = {"render": "photo.64x80.safetensors", "visualize": "photo.pca.png"}
"""Names that commands choose by themselves."""


@pytest.fixture
def inputs(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert featup("upsample", photo, *SMALL, *FAST, "-o", tmp_path, "--save-model")[0] == 0
    return tmp_path


def write_foreign(path: Path) -> bytes:
    """A file of another program."""
    if path.suffix == ".png":
        Image.new("RGB", (4, 4), "red").save(path)
    else:
        path.write_text("mine")
    return path.read_bytes()


@pytest.mark.parametrize("command", CALLS)
def test_a_file_that_exists_is_kept(inputs: Path, command: str) -> None:
    arguments = (*command.split(), *CALLS[command])
    path = inputs / MADE.get(command, arguments[-1])
    before = write_foreign(path)
    status, _, stderr = featup(*arguments)
    assert (status, path.read_bytes()) == (2, before)
    assert stderr.endswith(f"{path.name}: exists already; give --overwrite to replace it, or another --output\n")
    if path.suffix in (".png", ".safetensors"):
        status, _, stderr = featup(*arguments, "--overwrite")
        assert (status, path.read_bytes()) == (2, before)
        assert "was not made by featup, so --overwrite doesn't replace it; move it" in stderr


def test_every_command_that_writes_can_be_told_to_replace() -> None:
    commands = {name: resolve(entry.home) for name, entry in Commands.table.items() if name != "eval"}
    commands |= {f"eval {name}": make_command(tasks, *EXTRAS.get(name, ())) for name, tasks in COMMANDS.items()}
    writing = {name for name, made in commands.items() if {"output", "json_file"} & {o.name for o in made.options}}
    assert writing == {name for name, made in commands.items() if "overwrite" in {o.name for o in made.options}}
    assert set(CALLS) | {"upsample"} <= writing
    assert {name for name in writing if not name.startswith("eval")} <= set(CALLS) | {"upsample"}


def test_pictures_say_that_they_are_of_featup(tmp_path: Path) -> None:
    with Image.open(Path(__file__).parents[2] / "samples" / "rocket.jpg") as image:
        pixels = image.resize((40, 30))
    save_png(tmp_path / "ours.png", np.array(pixels))
    pixels.save(tmp_path / "theirs.png")
    pixels.save(tmp_path / "misnamed.png", "JPEG")
    with Image.open(tmp_path / "ours.png") as read:
        assert read.info["Software"] == "featup"
    assert [may_be_ours(tmp_path / f"{name}.png") for name in ("ours", "theirs", "misnamed")] == [True, False, False]
