"""A package of anybody's adds a task by an entry point alone: command, options, run, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORD = """
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.core.options import argument, option
from featup_cli.evaluation.task import Column, Task


@dataclass(frozen=True)
class ToyOptions:
    images: tuple[Path, ...] = argument("Pictures.", metavar="IMAGE")
    gain: float = option(1.0, "Factor of the score.", min=0, panel="Input")


TASK = Task(
    "toy", "Mean magnitude of the features.", "nobody (2026)", "no labels", "featup_toy.scorer:run", ToyOptions,
    (Column("magnitude", "magnitude"),), ("featup eval toy photos/",),
)
"""
SCORER = """
import numpy as np

from featup_cli.evaluation.data import find_images, name_of
from featup_cli.evaluation.run import Evaluation, Scorer
from featup_toy.task import TASK


class ToyScorer(Scorer):
    name = TASK.name

    def __init__(self, gain):
        self.settings = {"gain": gain}

    def prepare(self, source, look, item):
        return look.network_size

    def measure(self, source, look, method, prepared):
        features, seconds = source.features(method, look, prepared)
        magnitude = self.settings["gain"] * float(features.abs().mean())
        return {"magnitude": np.array(magnitude), "seconds": np.array(seconds)}


def run(options, request):
    return Evaluation(request).score(ToyScorer(options.gain), find_images(options.images), data=name_of(options.images))
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with an installed package."""
    site = tmp_path / "site"
    package, facts = site / "featup_toy", site / "featup_toy-1.0.dist-info"
    for folder in (package, facts):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "task.py").write_text(RECORD)
    (package / "scorer.py").write_text(SCORER)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: featup-toy\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[featup.tasks]\ntoy = featup_toy.task:TASK\n")
    return site


def featup(*arguments: object, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(site)] if site is not None else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *filter(None, sys.path)]), "COLUMNS": "100"}
    command = [sys.executable, "-m", "featup_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_an_entry_point_adds_a_task_and_goes_with_its_package(toy: Path, photo: Path, tmp_path: Path) -> None:
    listed = featup("eval", "--help", site=toy)
    assert "toy" in listed.stdout
    assert "Mean magnitude of the features." in listed.stdout
    shown = featup("eval", "toy", "--help", site=toy)
    assert (shown.returncode, shown.stderr) == (0, "")
    for text in ("--gain", "Factor of the score.", "--methods", "--no-cache", "featup eval toy photos/"):
        assert text in shown.stdout
    run = tmp_path / "run.json"
    options = ["--methods", "nearest,bilinear", "--resize", "64", "--device", "cpu", "--no-cache", "--gain", "2"]
    done = featup("eval", "toy", photo, *options, "-o", run, site=toy)
    assert done.returncode == 0, done.stderr
    assert "| method | magnitude | magnitude over bilinear | s/picture |" in done.stdout
    saved = json.loads(run.read_text())
    assert (saved["task"], saved["data"], saved["settings"]) == ("toy", photo.name, {"gain": 2.0})
    assert set(saved["methods"]) == {"nearest", "bilinear"}
    table = featup("eval", "report", run, site=toy)
    assert "| nearest |" in table.stdout
    # Without the package nothing of it is left.
    assert "toy" not in featup("eval", "--help").stdout
    assert "is no run of `featup eval`" in featup("eval", "report", run).stderr
