"""Run all steps, each in a process with a time limit: `benchmarks/on_gpu.sh OUT [--dry]` calls this.

OUT/results.jsonl holds a JSON line for each row that a step measured, written at once, and one for each step that
ended: `status` is `done`, `failed`, `timed out` or `skipped`. OUT/log.txt holds what the steps printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.gpu.steps import STEPS, TOTAL_S, Step

NEEDED = {
    "torch": "2.11", "triton": "3.6", "timm": "1.0.26", "typer": "0.16", "numba": "0.60", "safetensors": "0.4.3",
    "scikit-learn": "1.3", "pillow": "10.1", "pytest": "8",
}  # fmt: skip
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}
LEAST_S = 5.0  # a step with less time left is not begun
LOG_BYTES = 8_000_000
DRY_LIMIT_S = 120.0
ROOT = Path(__file__).parents[2]  # is left out of what is recorded


def missing(dry: bool) -> list[str]:
    """What is not there or too old, one line each; a dry run takes any version."""
    lines = []
    for package, floor in NEEDED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "unknown" if importlib.util.find_spec(MODULES.get(package, package)) else ""
        if not found:
            lines.append(f"{package} {floor} or newer is missing")
        elif not dry and found != "unknown" and _numbers(found) < _numbers(floor):
            lines.append(f"{package} {found} is too old: {floor} or newer is needed")
    return lines


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split("+")[0].split(".")
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts[:3])


def run_step(step: Step, out: Path, limit_s: float, dry: bool) -> dict[str, object]:
    """Run one step and say how it ended, as JSON values."""
    command = [sys.executable, "-m", "benchmarks.gpu.session", step.name, "--results", str(out / "results.jsonl")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if dry:
        command.append("--dry")
        environment |= {"TRITON_INTERPRET": "1"} if step.interpreted else {}
    log = out / "log.txt"
    begun = log.stat().st_size if log.exists() else 0
    start = time.perf_counter()
    with log.open("ab") as stream:
        stream.write(f"== {step.name}\n".encode())
        stream.flush()
        # A session of its own, so that what the step has started ends with it.
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
        try:
            process.wait(limit_s)
            status = "failed" if process.returncode else "done"
        except subprocess.TimeoutExpired:
            status = "timed out"
        finally:
            _end(process)
    record: dict[str, object] = {"step": step.name, "status": status, "seconds": time.perf_counter() - start}
    if status != "done":
        said = log.read_bytes()[begun:].decode(errors="replace").replace(f"{ROOT}/", "").strip().splitlines()
        record["error"] = "\n".join(said[-12:])[-4000:]
    if log.stat().st_size > LOG_BYTES:
        log.write_bytes(log.read_bytes()[-LOG_BYTES // 2 :])
    return record


def provenance() -> dict[str, str]:
    """When the run began, and of which commit."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"started": started, "commit": git.stdout.strip() or "unknown"}


def skipped(step: Step) -> dict[str, object]:
    """The record of a step for which no time is left."""
    return {"step": step.name, "status": "skipped", "seconds": 0.0, "error": "no time left"}


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """Run the steps; exit status 1 if one failed or timed out, 2 if something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for results, new or empty")
    parser.add_argument("--dry", action="store_true", help="every step at small sizes, on a CPU")
    parser.add_argument("--only", nargs="*", default=[step.name for step in STEPS], help="steps to run")
    given = parser.parse_args()
    if lines := missing(given.dry):
        raise SystemExit("\n".join(["on_gpu.sh needs more:", *lines]))
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.jsonl"
    results.write_text(json.dumps({"step": "run", "dry": given.dry, **provenance()}) + "\n")
    (given.out / "log.txt").unlink(missing_ok=True)
    start, bad = time.perf_counter(), 0
    for step in STEPS:
        if step.name not in given.only:
            continue
        left = TOTAL_S - (time.perf_counter() - start)
        limit_s = DRY_LIMIT_S if given.dry else min(step.limit_s, left)
        record = skipped(step) if limit_s < LEAST_S else run_step(step, given.out, limit_s, given.dry)
        with results.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        bad += record["status"] in ("failed", "timed out")
        last = str(record.get("error", "")).splitlines()[-1:]
        print(f"{record['seconds']:6.1f} s  {step.name}: {record['status']}  {' '.join(last)[:120]}", flush=True)
    print(f"{time.perf_counter() - start:6.1f} s  in all; {results}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
