"""Runs on a local Ray cluster, and workers that die there."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.batch.runs import (
    KILLED_BY_A_PICTURE,
    SLOW_DISK,
    Processes,
    check_whole,
    hidden_files,
    make_pictures,
    numbered,
    read_lines,
    upsample,
)

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install 'featup-cli[ray]'")
RAY = ("--engine", "ray", "--workers", 2)
STEMS = {name.removesuffix(".png") for name in numbered(12)}

KILLED_ONCE = (
    KILLED_BY_A_PICTURE.replace('== "03.png"', '== "03.png" and not os.path.exists(str(path) + ".killed")')
    .replace("    os.kill", '    open(str(path) + ".killed", "x").close()\n        os.kill')
)  # fmt: skip


@pytest.mark.slow
@needs_ray
def test_what_a_killed_worker_held_is_done_by_another(twelve: Path, tmp_path: Path, processes: Processes) -> None:
    out = tmp_path / "out"
    processes.customize = SLOW_DISK + KILLED_ONCE
    ran = processes.run(twelve, "-o", out, *RAY)
    assert (twelve / "03.png.killed").exists()
    assert ran.status == 0
    assert sorted(Path(line["input"]).name for line in ran.lines) == numbered(12)  # each once
    # A picture that was done just before its worker died, and not told yet, is found done.
    assert {line["status"] for line in ran.lines} <= {"done", "skipped"}
    assert check_whole(out) == STEMS
    assert hidden_files(out) == []
    assert upsample(twelve, "-o", out).names("skipped") == numbered(12)


@pytest.mark.slow
@needs_ray
def test_workers_killed_from_outside_at_random_moments_lose_nothing(
    twelve: Path, tmp_path: Path, processes: Processes
) -> None:
    out = tmp_path / "out"
    processes.customize = SLOW_DISK
    process = processes.start(twelve, "-o", out, *RAY)
    told = read_lines(process, 1)
    time.sleep(random.uniform(0, 0.3))
    killed = kill_one_actor(processes.folder)
    ran = processes.finish(process)
    assert killed
    assert ran.status == 0
    lines = [*told, *ran.lines]
    assert sorted(Path(line["input"]).name for line in lines) == numbered(12)
    assert {line["status"] for line in lines} <= {"done", "skipped"}
    assert check_whole(out) == STEMS
    assert hidden_files(out) == []


def kill_one_actor(mark: Path) -> bool:
    """SIGKILL one of Ray's workers that do pictures: those whose environment holds the path `mark`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if name.startswith(b"ray::") and b"_Actor" in name and os.fsencode(mark) in environment:
            os.kill(int(folder.name), signal.SIGKILL)
            return True
    return False


@pytest.mark.slow
@needs_ray
def test_a_quiet_run_on_ray_prints_nothing(tmp_path: Path, processes: Processes) -> None:
    make_pictures(tmp_path / "in", numbered(2))
    ran = processes.run(tmp_path / "in", "-o", tmp_path / "out", *RAY, "--quiet")
    assert ran.names("done") == numbered(2)
    assert ran.stderr == ""


@pytest.mark.slow
@needs_ray
def test_a_picture_that_kills_its_workers_fails_alone(tmp_path: Path, processes: Processes) -> None:
    make_pictures(tmp_path / "in", numbered(6))
    processes.customize = KILLED_BY_A_PICTURE
    ran = processes.run(tmp_path / "in", "-o", tmp_path / "out", *RAY)
    assert ran.status == 1
    assert ran.names("failed") == ["03.png"]
    assert "03.png: its worker process died twice" in ran.stderr
    assert check_whole(tmp_path / "out") == {"00", "01", "02", "04", "05"}
    assert hidden_files(tmp_path / "out") == []


def test_ray_is_asked_for_by_the_name_of_its_extra(
    twelve: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = upsample(twelve, "-o", tmp_path / "out", *RAY)
    assert ran.status == 2
    assert ran.stderr == "error: --engine ray needs Ray: pip install 'featup-cli[ray]'\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "ray", "--devices", "cpu:2"], "omit --devices"),
        (["--engine", "ray", "--shard", "1/2"], "--shard"),
        (["--workers", "2"], "--workers: needs --engine ray"),
    ],
)
def test_options_that_contradict_the_engine_are_refused(
    twelve: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    ran = upsample(twelve, "-o", tmp_path / "out", *options)
    assert ran.status == 2
    assert message in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["s3://bucket/photos"], ["{in}", "-o", "s3://bucket/out"]])
def test_addresses_of_object_stores_are_refused_with_a_way_out(twelve: Path, arguments: list[str]) -> None:
    ran = upsample(*(text.replace("{in}", str(twelve)) for text in arguments))
    assert ran.status == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "mount" in ran.stderr
