"""Pictures, runs in this process and in others, and what must hold of an output folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from featup_cli.cli.app import app

FAST = ("--method", "bilinear", "--resize", "32", "--device", "cpu")
START = (sys.executable, "-m", "featup_cli", "upsample")
ROOT = Path(__file__).parents[2]


def make_pictures(folder: Path, names: Iterable[str], size: tuple[int, int] = (40, 56)) -> list[Path]:
    """Different noisy pictures of `size` (height, width)."""
    paths = []
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(name.encode(), "big") % 2**32
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def numbered(count: int) -> list[str]:
    """`00.png`, `01.png`, ..."""
    return [f"{i:02}.png" for i in range(count)]


@dataclass(frozen=True)
class Ran:
    """What a command left: exit status, text, and its JSON lines."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def by_name(self) -> dict[str, str]:
        """Status of each picture."""
        return {Path(line["input"]).name: line["status"] for line in self.lines}

    def names(self, status: str) -> list[str]:
        """Pictures of a status, sorted."""
        return sorted(name for name, its in self.by_name.items() if its == status)


def upsample(*arguments: object, stdin: bytes | None = None) -> Ran:
    """`featup upsample --json` with a fast method, in this process."""
    result = CliRunner().invoke(app, ["upsample", *FAST, "--json", *map(str, arguments)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


@dataclass
class Processes:
    """Starts `featup upsample --json` in processes whose Python runs `customize` first, and ends them all at last."""

    folder: Path
    customize: str = ""
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        site = self.folder / "sitecustomize.py"
        site.parent.mkdir(exist_ok=True)
        site.write_text(self.customize)
        paths = [str(self.folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*START, *FAST, "--json", *map(str, arguments)], env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, preexec_fn=_accept_interrupts,
        )  # fmt: skip
        self.running.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> Ran:
        """Wait for the end of a process; all of its output that was not read before."""
        stdout, stderr = process.communicate(timeout=120)
        return Ran(process.returncode, stdout, stderr)

    def run(self, *arguments: object) -> Ran:
        return self.finish(self.start(*arguments))


def _accept_interrupts() -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


SLOW_DISK = "import os, time\nos.fsync = lambda descriptor: time.sleep(0.15)\n"
"""For `Processes.customize`: writing takes long, so that a process can be hit in the middle of it."""

KILLED_BY_A_PICTURE = """
import os, pathlib, signal
read_bytes = pathlib.Path.read_bytes

def read_or_die(path):
    if path.name == "03.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_bytes(path)

pathlib.Path.read_bytes = read_or_die
"""
"""For `Processes.customize`: a process that reads the picture 03.png dies."""


def read_lines(process: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    """The next JSON lines of a running process."""
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def hidden_files(folder: Path) -> list[str]:
    """Unfinished files and claims."""
    return sorted(path.name for path in folder.rglob(".*"))


def check_whole(folder: Path) -> set[str]:
    """Every output can be read to its last byte; the stems of those that are there."""
    for path in folder.rglob("[!.]*.png"):
        with Image.open(path) as image:
            image.load()
    stems = set()
    for path in folder.rglob("[!.]*.safetensors"):
        with safe_open(path, "np") as file:
            assert np.isfinite(file.get_tensor("features")).all()
        stems.add(path.name.removesuffix(".safetensors"))
    return stems
