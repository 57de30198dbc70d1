"""A package of anybody's adds a task by an entry point alone: command, options, run, report."""

from __future__ import annotations

import json
from pathlib import Path

from tests.plugins import install, python

TOY = """
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.core.options import argument, option
from featup_cli.evaluation.task import Column, Task


@dataclass(frozen=True)
class ToyOptions:
    images: tuple[Path, ...] = argument("Pictures.", metavar="IMAGE")
    gain: float = option(1.0, "Factor of the score.", min=0, panel="Toy")


TASK = Task(
    "toy", "Mean magnitude of the features.", "nobody (2026)", "no labels", "toy_task:run", ToyOptions,
    (Column("magnitude", "magnitude"),), ("featup eval toy photos/",),
)


def run(options, request):
    import numpy as np

    from featup_cli.evaluation.data import find_images, name_of
    from featup_cli.evaluation.run import Evaluation, Scorer

    class ToyScorer(Scorer):
        name = TASK.name
        settings = {"gain": options.gain}

        def prepare(self, source, look, item):
            return look.plan.network

        def measure(self, source, look, method, prepared):
            features, seconds = source.features(method, look, prepared)
            return {"magnitude": options.gain * np.array(float(features.abs().mean())), "seconds": np.array(seconds)}

    return Evaluation(request).score(ToyScorer(), find_images(options.images), data=name_of(options.images))
"""


def test_an_entry_point_adds_a_task_and_goes_with_its_package(photo: Path, tmp_path: Path) -> None:
    toy = install(tmp_path, "featup.tasks", "toy_task:TASK", TOY)
    featup = ("-m", "featup_cli", "eval")
    assert "Mean magnitude of the features." in python(*featup, "--help", packages=toy).stdout
    shown = python(*featup, "toy", "--help-all", packages=toy).stdout
    for text in ("--gain", "Factor of the score.", "--methods", "--no-cache", "featup eval toy photos/"):
        assert text in shown
    run = tmp_path / "run.json"
    options = ("--methods", "nearest,bilinear", "--resize", 64, "--device", "cpu", "--no-cache", "--gain", 2)
    done = python(*featup, "toy", photo, *options, "-o", run, packages=toy)
    assert "| method | magnitude | magnitude over bilinear | s/picture |" in done.stdout
    saved = json.loads(run.read_text())
    assert (saved["task"], saved["data"], saved["settings"]) == ("toy", photo.name, {"gain": 2.0})
    assert set(saved["methods"]) == {"nearest", "bilinear"}
    assert "| nearest |" in python(*featup, "report", run, packages=toy).stdout
    # Without the package nothing of it is left.
    assert "toy" not in python(*featup, "--help").stdout
    assert "is no run of `featup eval`" in python(*featup, "report", run, status=1).stderr
