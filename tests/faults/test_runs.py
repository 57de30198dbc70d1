"""Runs that are killed, interrupted, doubled, lose a worker, a picture or the disk. FEATUP_LONG_TESTS=1: more kills."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from featup_cli.batch.run import BatchOptions, plan_run
from featup_cli.engine.settings import Output, Upsampling
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
from tests.faults.disks import Disk

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks as on Unix")
STEMS = {name.removesuffix(".png") for name in numbered(12)}
LONG = os.environ.get("FEATUP_LONG_TESTS", "0") != "0"
PICTURES, STEP = (200, 4) if LONG else (50, 7)  # and how many are done on average before a kill
SEED = int.from_bytes(os.urandom(4), "big")  # other moments each time; a failure shows it


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["cpu", "cpu:2"] if LONG else ["cpu"])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    tmp_path: Path, processes: Processes, devices: str
) -> None:
    moments = random.Random(SEED)
    names = numbered(PICTURES)
    make_pictures(tmp_path / "in", names)
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    settings = (tmp_path / "in", "--batch", 1, "--devices", devices)  # one by one, so that not a bit may differ
    assert processes.run(*settings, "-o", undisturbed).status == 0
    processes.customize = SLOW_DISK
    reported: list[str] = []
    finished: dict[str, tuple[int, int]] = {}  # feature files: which file it is, and when it was written
    kills = 0
    while len(finished) < len(names):
        process = processes.start(*settings, "-o", out)
        assert process.stdout is not None
        for _ in range(len(finished) + moments.randint(1, 2 * STEP)):
            line = process.stdout.readline()
            reported += [line] if '"done"' in line else []
        time.sleep(moments.random() / 5)
        process.kill()
        kills += 1
        print(f"{SEED=} {kills=}")
        reported += [line for line in processes.finish(process).stdout.splitlines() if '"done"' in line]
        check_whole(out)
        now = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("[!.]*.safetensors")}
        assert finished.items() <= now.items()
        finished = now
    last = processes.run(*settings, "-o", out)
    assert (last.status, last.names("skipped")) == (0, sorted(names))
    assert hidden_files(out) == []
    assert len(reported) == len({line.split('"status"')[0] for line in reported})
    assert kills > 1
    for name in names:
        stem = name.removesuffix(".png")
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
        result, expected = (load_file(folder / f"{stem}.safetensors") for folder in (out, undisturbed))
        assert result.keys() == expected.keys()
        for key in expected:
            np.testing.assert_array_equal(result[key], expected[key])


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
    assert "run the same command to resume" in ran.stderr
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


@pytest.mark.slow
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


def test_a_full_disk_fails_what_does_not_fit_and_the_run_goes_on_when_there_is_room(twelve: Path, disk: Disk) -> None:
    out = disk.path / "out"
    disk.remount("size=2m")
    ran = upsample(twelve, "-o", out)
    assert ran.status == 1
    assert ran.names("done")
    assert len(ran.names("done")) + len(ran.names("failed")) == 12
    errors = [line for line in ran.stderr.splitlines() if "can't be written" in line]
    assert len(errors) == len(ran.names("failed"))
    assert all("of the disk are free" in line or "No space left" in line for line in errors)
    assert hidden_files(out) == []
    assert check_whole(out) == {name.removesuffix(".png") for name in ran.names("done")}
    disk.remount("size=64m")
    again = upsample(twelve, "-o", out)
    assert again.status == 0
    assert again.names("skipped") == ran.names("done")
    assert check_whole(out) == STEMS


def test_a_folder_that_becomes_read_only_ends_the_run_in_one_line_and_keeps_what_is_there(
    twelve: Path, disk: Disk
) -> None:
    out = disk.path / "out"
    (twelve / "11.png").rename(twelve.parent / "11.png")
    assert upsample(twelve, "-o", out).status == 0
    (twelve.parent / "11.png").rename(twelve / "11.png")
    disk.remount("ro")
    ran = upsample(twelve, "-o", out)
    assert (ran.status, ran.names("skipped"), len(ran.stderr.splitlines())) == (1, numbered(11), 1)
    assert "can't be written: Read-only file system" in ran.stderr
    disk.remount("rw")
    assert upsample(twelve, "-o", out).names("done") == ["11.png"]
    assert check_whole(out) == STEMS
    disk.remount("ro")
    finished = upsample(twelve, "-o", out)
    assert (finished.status, finished.names("skipped")) == (0, numbered(12))


def test_pictures_that_vanish_between_listing_and_reading_fail_alone(twelve: Path, tmp_path: Path) -> None:
    settings = Upsampling(method="bilinear", resize=32, device="cpu")
    run = plan_run([twelve], tmp_path / "out", settings, Output(), BatchOptions())
    gone = {f"{twelve}/{name}" for name in ("00.png", "07.png")}
    for path in gone:
        os.unlink(path)
    records = list(run.records())
    assert {record.item.picture for record in records if record.status == "failed"} == gone
    assert check_whole(tmp_path / "out") == STEMS - {"00", "07"}
