"""Runs that are killed, interrupted, doubled, or lose a worker. Each starts processes, so there are few."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.batch.runs import SLOW_DISK, Processes, check_whole, hidden_files, numbered, read_lines, upsample

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks as on Unix")
STEMS = {name.removesuffix(".png") for name in numbered(12)}


def test_a_killed_run_leaves_whole_outputs_and_goes_on(twelve: Path, tmp_path: Path, processes: Processes) -> None:
    out = tmp_path / "out"
    processes.customize = SLOW_DISK
    process = processes.start(twelve, "-o", out)
    before = {Path(line["input"]).name for line in read_lines(process, 3)}
    process.kill()
    processes.finish(process)
    assert hidden_files(out)
    assert len(check_whole(out)) < 12
    ran = upsample(twelve, "-o", out)
    assert ran.status == 0
    assert before <= set(ran.names("skipped"))
    assert check_whole(out) == STEMS
    assert hidden_files(out) == []


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_an_interrupted_run_leaves_whole_outputs_and_says_how_to_go_on(
    twelve: Path, tmp_path: Path, processes: Processes, devices: str
) -> None:
    out = tmp_path / "out"
    processes.customize = SLOW_DISK
    process = processes.start(twelve, "-o", out, "--devices", devices)
    read_lines(process, 2)
    process.send_signal(signal.SIGINT)
    ran = processes.finish(process)
    assert ran.status == 130
    assert len(ran.stderr.splitlines()) == 1
    assert "the same command goes on from here" in ran.stderr
    assert len(check_whole(out)) < 12
    assert hidden_files(out) == []


def test_two_runs_on_one_folder_share_the_work(twelve: Path, tmp_path: Path, processes: Processes) -> None:
    out = tmp_path / "out"
    processes.customize = SLOW_DISK
    started = [processes.start(twelve, "-o", out) for _ in range(2)]
    first, second = (processes.finish(process) for process in started)
    assert (first.status, second.status) == (0, 0)
    assert sorted(first.names("done") + second.names("done")) == numbered(12)
    assert len(first.by_name) == len(second.by_name) == 12
    assert check_whole(out) == STEMS
    assert hidden_files(out) == []


KILLED_BY_A_PICTURE = """
import os, pathlib, signal
read_bytes = pathlib.Path.read_bytes

def read_or_die(path):
    if path.name == "03.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_bytes(path)

pathlib.Path.read_bytes = read_or_die
"""


def test_workers_that_die_are_replaced_and_only_the_picture_at_fault_fails(
    twelve: Path, tmp_path: Path, processes: Processes
) -> None:
    processes.customize = KILLED_BY_A_PICTURE
    ran = processes.run(twelve, "-o", tmp_path / "out", "--devices", "cpu:2")
    assert ran.status == 1
    assert ran.names("failed") == ["03.png"]
    assert "03.png: its worker process died twice (SIGKILL" in ran.stderr
    assert ran.names("done") == sorted({*numbered(12)} - {"03.png"})
    assert check_whole(tmp_path / "out") == STEMS - {"03"}
    assert hidden_files(tmp_path / "out") == []


def test_settings_that_can_not_be_obeyed_end_all_workers(
    twelve: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = upsample(twelve, "-o", tmp_path / "out", "--devices", "cpu:2", "--layer", "9")
    assert ran.status == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "layer 9" in ran.stderr
    assert capfd.readouterr().err == ""  # of the workers
