"""Steps about single kernels: the paper's table 6, tests, profile and launch configurations."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.session import Session
from featup_cli.benchmark.kernels import OPERATIONS, Sizes, measure_case
from featup_cli.benchmark.measure import cache_bytes, copy_bandwidths
from featup_cli.benchmark.run import device_name
from featup_cli.benchmark.settings import Case, Settings, parse_shape
from featup_cli.benchmark.table6 import ROWS, Row
from featup_cli.environment import versions
from featup_cli.errors import FeatUpError

ROOT = Path(__file__).parents[2]
DRY_ROWS = (Row("1x3x4x2x3", ROWS[0].featup, ROWS[0].unfold), Row("2x2x5x1x5", ROWS[1].featup, ROWS[1].unfold))
BACKEND = "triton"  # interpreted in a dry run
TEST_FILES = ("triton_kernels.py", "test_operations.py", "test_resampled_conv.py", "test_adaptive_conv.py")


def describe(session: Session) -> None:
    """Device, versions, and the bandwidth of a copy, which sets the floor."""
    device = session.device
    facts: dict[str, Any] = {"device": device_name(device), "versions": versions(), "cache_bytes": cache_bytes(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "capability": list(torch.cuda.get_device_capability(device)),
            "multiprocessors": properties.multi_processor_count, "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }  # fmt: skip
    reused, fresh = copy_bandwidths(device)
    session.row(**facts, copy_gb_per_s=reused / 1e9, fresh_copy_gb_per_s=fresh / 1e9)


def table6(session: Session) -> None:
    """Our kernel, checked first, beside baselines that need no compiler."""
    _measure_rows(session, ("reference", "loop", "bilinear"))


def compiled(session: Session) -> None:
    """The same rows beside what a compiler makes of the loop, and beside FlexAttention."""
    _measure_rows(session, ("torchscript",) if session.dry else ("compile", "torchscript", "flex"))


def _measure_rows(session: Session, baselines: tuple[str, ...]) -> None:
    settings = Settings(
        device=str(session.device), backend="auto" if session.step == "compiled" else BACKEND,
        repeat=3 if session.dry else 30, budget_s=0.2 if session.dry else 1.0, baselines=baselines,
    )  # fmt: skip
    bandwidth, _ = copy_bandwidths(session.device)
    for row in DRY_ROWS if session.dry else ROWS:
        for backward in (False, True):
            case = row.case(backward=backward)
            try:
                record = measure_case(case, settings, session.device, bandwidth, note=lambda text: None)
            except FeatUpError as error:  # a wrong result is a result; the other rows still count
                record = {"shape": case.shape, "direction": case.direction, "wrong": str(error)}
            session.row(**record, published=row.record(backward=backward))


def tests(session: Session) -> None:
    """Tests of the kernels on the device: files side by side, as nothing is timed."""
    options = ["-m", "pytest", "-q", "-x", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
    files = [f"tests/kernels/{name}" for name in TEST_FILES]
    chosen = ["-k", "in_every_dtype or addresses"] if session.dry else []
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, Path(name).name) for name in files]
        running = []
        for name, log in zip(files[:1] if session.dry else files, logs, strict=False):
            command = [sys.executable, *options, name, "--device", session.device.type, *chosen]
            environment = os.environ | ({} if session.dry else {"TRITON_INTERPRET": "0"})
            with log.open("wb") as stream:
                running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream))
        failed = []
        for name, log, process in zip(files, logs, running, strict=False):
            status = process.wait()
            text = log.read_text(errors="replace")
            print(text)
            summary = text.strip().splitlines()[-1] if text.strip() else ""
            session.row(file=name, exit_status=status, summary=summary, output=text[-6000:] if status else "")
            failed += [name] if status else []
    if failed:
        raise SystemExit(f"tests failed: {', '.join(failed)}")


def profile(session: Session) -> None:
    """Time of each kernel of each row of table 6, and its share of the bytes that must move."""
    activities = [torch.profiler.ProfilerActivity.CPU if session.dry else torch.profiler.ProfilerActivity.CUDA]
    for row in DRY_ROWS[:1] if session.dry else ROWS:
        for backward in (False, True):
            case = row.case(backward=backward)
            call = _call(case, session)
            call()
            with torch.profiler.profile(activities=activities) as profiler:
                for _ in range(1 if session.dry else 10):
                    call()
                if session.device.type == "cuda":
                    torch.cuda.synchronize()
            session.row(
                shape=case.shape, direction=case.direction, moved_bytes=Sizes.of(case).moved(case),
                kernels=[_kernel_row(event) for event in profiler.key_averages()][:20],
            )  # fmt: skip


def _kernel_row(event: Any) -> dict[str, Any]:
    total_us = getattr(event, "self_device_time_total", 0) or event.self_cpu_time_total
    return {"name": event.key[:100], "calls": event.count, "mean_us": total_us / max(event.count, 1)}


def _call(case: Case, session: Session) -> Any:
    operation = OPERATIONS[case.operation]
    inputs = operation.make_inputs(case, torch.Generator(session.device).manual_seed(0))
    leaves = [x.requires_grad_(case.backward) for x in inputs]

    def call() -> Any:
        out = operation.run(case, BACKEND, *leaves)
        return torch.autograd.grad(out, leaves, torch.ones_like(out)) if case.backward else out

    return call


def tuning(session: Session) -> None:
    """Every candidate configuration of each kernel, beside the chosen one."""
    from featup_kernels.tuning import measure_candidates

    shapes = ["1x3x4x2x3"] if session.dry else [row.shape for row in ROWS]
    for shape in shapes:
        for row in measure_candidates("adaptive_conv", parse_shape(shape), torch.float32, session.device):
            session.row(shape=shape, **row)
