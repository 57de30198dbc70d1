"""The GPU script: its dry run, and what is read from results of a GPU that these tests make up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import read_gpu
from benchmarks.gpu import run
from benchmarks.gpu.goals import all_goals
from benchmarks.gpu.results import Results, read, read_all
from benchmarks.gpu.steps import STEPS, TOTAL_S, Step
from benchmarks.gpu.tables import report

ROOT = Path(__file__).parents[2]


def kernel_row(shape: str = "1x512x512x3x5", **changes: Any) -> dict[str, Any]:
    """A row of table 6 that meets every goal."""
    return {
        "step": "table6", "shape": shape, "direction": "forward", "time_ms": 0.1, "launch_ms": 0.01, "floor_share": 0.8,
        "moved_mib": 100, "inputs_mib": 60.0, "results_mib": 40.0, "scratch_mib": 0.5, "published": {"featup_ms": 0.55},
        "baselines": {"reference": {"ratio": 9.0}, "loop": {"ratio": 5.0}, "bilinear": {"ratio": 0.2}},
    } | changes  # fmt: skip


DEVICE = {
    "step": "device", "device": "NVIDIA H100 80GB HBM3, 79 GiB", "cache_bytes": 50 * 2**20, "copy_gb_per_s": 2800.0,
    "versions": {"torch": "2.11.0", "triton": "3.6.0"},
}  # fmt: skip


def results_of(folder: Path, *rows: dict[str, Any], dry: bool = False) -> Path:
    lines = [{"step": "run", "dry": dry, "started": "2026-12-01"}, DEVICE, *rows]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def goals(results: Results) -> dict[str, tuple[bool | None, str]]:
    return {goal.text: (goal.met, goal.measured) for goal in all_goals(results)}


def test_what_was_not_measured_is_no_goal_met_or_missed(tmp_path: Path) -> None:
    found = goals(read(results_of(tmp_path)))
    assert {met for met, _ in found.values()} == {None}
    assert {measured for _, measured in found.values()} == {"not measured"}


def test_rows_that_miss_a_goal_are_named_with_their_figure(tmp_path: Path) -> None:
    good, slow = kernel_row(), kernel_row("32x512x512x3x5", floor_share=0.6, time_ms=0.2)
    small = kernel_row("1x14x14x2048x5", floor_share=0.1, moved_mib=20)  # fits into the cache: not judged
    beaten = {
        "step": "compiled", "shape": "32x512x512x3x5", "direction": "forward",
        "baselines": {"compile": {"ratio": 0.9}, "flex": {"skipped": "too wide"}},
    }  # fmt: skip
    found = goals(read(results_of(tmp_path, good, slow, small, beaten)))
    share = "forward at least 70% of the copy bandwidth where the data exceed the cache"
    assert found[share] == (False, "1 of 2; missed: 32x512x512x3x5 forward 60%")
    assert found["ahead of compile in every row"] == (False, "0 of 1; missed: 32x512x512x3x5 forward 0.90")
    assert found["ahead of flex in every row"] == (None, "not measured")
    assert found["ahead of loop in every row"] == (True, "3 of 3")
    times = found["3 times the published figures where launches don't dominate"]
    assert times == (False, "2 of 3; missed: 32x512x512x3x5 forward 2.75")


def test_jobs_are_judged_by_their_own_limits(tmp_path: Path) -> None:
    rows = [
        {"step": "upsample", "method": "jbu", "channels": 384, "grid": 14, "time_ms": 0.9},
        {"step": "upsample", "method": "jbu", "channels": 384, "grid": 28, "time_ms": 3.2},
        {"step": "implicit", "preset": "default", "side": 224, "seconds": 8.0},
        {"step": "implicit", "preset": "default", "side": 224, "seconds": 4.0},
        {"step": "tests", "file": "a.py", "exit_status": 0},
        {"step": "tests", "file": "b.py", "exit_status": 1},
    ]
    found = goals(read(results_of(tmp_path, *rows)))
    assert found["jbu 14x14x384 to 224 under 1 ms"] == (True, "0.90 ms")
    assert found["jbu 28x28x384 to 448 under 3 ms"] == (False, "3.20 ms")
    assert found["implicit of a 224 px picture under 5 s"] == (True, "4.00 s")
    assert found["kernel tests pass on the device"] == (False, "b.py")


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    folder = results_of(tmp_path, kernel_row())
    with (folder / "results.jsonl").open("a") as stream:
        stream.write('{"step": "table6", "shape": "1x5')
    assert len(read(folder).of("table6")) == 1


def test_a_step_that_was_run_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    def end(step: str, status: str) -> dict[str, Any]:
        return {"step": step, "status": status, "seconds": 1.0}

    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    results_of(first, kernel_row(), end("table6", "done"), {"step": "tests", "file": "a.py"}, end("tests", "timed out"))
    results_of(second, end("tests", "failed"))
    found = read_all([first, second])
    assert len(found.of("table6")) == 1
    assert found.of("tests") == []
    assert {step: row["status"] for step, row in found.ends.items()} == {"table6": "done", "tests": "failed"}
    assert found.ends["table6"]["started"] == "2026-12-01"


def test_tables_and_json_are_written_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = results_of(tmp_path, kernel_row(), {"step": "table6", "status": "done", "seconds": 3.0})
    docs, record = tmp_path / "docs.md", tmp_path / "gpu.json"
    docs.write_text(f"before\n{read_gpu.BEGIN}old\n{read_gpu.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["read_gpu", str(folder), "--json", str(record), "--docs", str(docs)])
    read_gpu.main()
    text = docs.read_text()
    assert text.startswith(f"before\n{read_gpu.BEGIN}NVIDIA H100 80GB HBM3")
    assert text.endswith(f"{read_gpu.END}\nafter\n")
    assert "old" not in text
    assert "| 1x512x512x3x5 | forward | 0.1 | 80% | 5.5 | 9 | 5 | - | - | - |" in text
    assert json.loads(record.read_text())["steps"]["table6"]["rows"][0]["time_ms"] == 0.1
    assert read(folder).slug == "nvidia_h100_80gb_hbm3"


def test_a_dry_run_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, docs = results_of(tmp_path, kernel_row(), dry=True), tmp_path / "docs.md"
    monkeypatch.setattr(sys, "argv", ["read_gpu", str(folder), "--docs", str(docs), "--json", str(tmp_path / "x.json")])
    read_gpu.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl"]


def test_the_documentation_has_a_place_for_the_tables() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert "new\n" in read_gpu.replace_section(text, "new\n")


def test_packages_that_are_missing_or_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "NEEDED", {"torch": "99.1", "no-such-package": "1"})
    lines = run.missing(dry=False)
    assert lines[0].endswith("is too old: 99.1 or newer is needed")
    assert lines[1] == "no-such-package 1 or newer is missing"
    assert run.missing(dry=True) == lines[1:]


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [("print('fine')", "done", None), ("raise SystemExit('broken pipe')", "failed", "broken pipe"),
     (f"raise SystemExit('{ROOT}/benchmarks/x.py broke')", "failed", "benchmarks/x.py broke"),
     ("import time; time.sleep(60)", "timed out", "")],
)  # fmt: skip
def test_a_step_ends_with_its_status_and_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, status: str, said: str | None
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(python))
    record = run.run_step(Step("x", "kernels:describe", 1, ""), tmp_path, 1.0, dry=False)
    assert record["status"] == status
    assert ("error" in record) == (said is not None)
    assert said is None or said in str(record["error"])
    assert str(ROOT) not in str(record)


def test_steps_are_within_eight_minutes_but_for_the_last_ones() -> None:
    assert TOTAL_S == 8 * 60
    begun = 0.0
    for step in STEPS[:8]:
        assert begun < TOTAL_S - step.limit_s / 2, f"{step.name} would hardly run"
        begun += step.limit_s


@pytest.mark.slow
def test_the_dry_run_measures_something_in_every_step(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["bash", str(ROOT / "benchmarks" / "on_gpu.sh"), str(out), "--dry"]
    done = subprocess.run(command, capture_output=True, text=True, env=run.os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    results = read(out)
    assert {name: end["status"] for name, end in results.ends.items()} == {step.name: "done" for step in STEPS}
    assert all(results.of(step.name) for step in STEPS)
    assert not [row for rows in results.rows.values() for row in rows if "wrong" in row]
    assert "| step | end | s |" in report(results)
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "results.jsonl", "tests-0.txt"]
