"""Steps about single kernels: the paper's table 6, tests, profile and launch configurations."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from featup_kernels.cases import cases_of
from featup_kernels.operation import Case

from benchmarks.gpu.session import Session
from benchmarks.gpu.tuning import tune
from featup_cli.benchmarking.kernels import Sizes, measure_case
from featup_cli.benchmarking.measure import cache_bytes, copy_bandwidths
from featup_cli.benchmarking.run import device_name
from featup_cli.benchmarking.settings import Settings, parse_shape
from featup_cli.benchmarking.table6 import ROWS, Row
from featup_cli.core.errors import FeatUpError
from featup_cli.core.versions import versions

ROOT = Path(__file__).parents[2]
DRY_ROWS = (Row("1x2x3x2x3", ROWS[0].featup, ROWS[0].unfold),)
# A stage of JBU is a doubling: its guidance has 20 keys, and the features are those of a ViT.
TUNED = (
    *(
        (f"adaptive_conv.{function}", Case(*parse_shape(row.shape), "adaptive_conv"))
        for row in ROWS[1:] for function in ("forward", "d_source", "d_taps")
    ),
    ("resampled_conv.forward", Case(1, 224, 224, 384, 7, "resampled_conv", 2)),
    ("range_taps.forward", Case(1, 224, 224, 32, 7, "range_taps")),
    ("range_taps.backward", Case(1, 224, 224, 32, 7, "range_taps")),
    *((f"neighbor_mix.{f}", Case(1, 224, 224, 384, 3, "neighbor_mix", 16)) for f in ("forward", "d_source", "d_taps")),
)  # fmt: skip
DRY_TUNED = (("range_taps.forward", Case(1, 3, 4, 2, 3, "range_taps")),)
BACKEND = "triton"  # interpreted in a dry run
# Files that run side by side, those of a group in one run; the kernels' take the device as an option, others find it.
TEST_FILES = (
    ("kernels/triton_kernels.py", "kernels/test_operations.py", "kernels/triton_configs.py"),
    ("kernels/test_resampled_conv.py", "kernels/test_adaptive_conv.py"),
    ("ops/test_capture.py", "ops/test_replay.py", "upsamplers/test_implicit_device.py", "backbones/test_precision.py"),
)  # fmt: skip


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
    """The rows beside what compilers make of the loop, and FlexAttention: one at a time, as compilers take long."""
    for baseline in ("torchscript",) if session.dry else ("compile", "torchscript", "flex"):
        # Few channels first: what thousands of them cost a compiler may be all the time that there is.
        _measure_rows(session, (baseline,), sorted(ROWS, key=lambda row: row.case(backward=False).channels))


def _measure_rows(session: Session, baselines: tuple[str, ...], rows: Sequence[Row] = ROWS) -> None:
    # What the compiled step adds are baselines; in a dry run our own kernel need not be interpreted again.
    backend = "reference" if session.dry and session.step == "compiled" else BACKEND
    settings = Settings(
        device=str(session.device), backend=backend,
        repeat=2 if session.dry else 30, budget_s=0.01 if session.dry else 0.5, baselines=baselines,
    )  # fmt: skip
    bandwidth, _ = copy_bandwidths(session.device)
    for row in DRY_ROWS if session.dry else rows:
        for backward in (False, True):
            case = row.case(backward=backward)
            try:
                record = measure_case(case, settings, session.device, bandwidth, note=lambda text: None)
            except FeatUpError as error:  # a wrong result is a result; the other rows still count
                record = {"shape": case.shape, "direction": case.direction, "wrong": str(error)}
            session.row(**record, published=row.record(backward=backward))


def tests(session: Session) -> None:
    """Tests of what runs on the device: groups of files side by side, as nothing is timed."""
    running, failed = [], []
    for index, names in enumerate((("kernels/triton_kernels.py",),) if session.dry else TEST_FILES):
        log = session.results.parent / f"tests-{index}.txt"  # stays if this step is stopped
        with log.open("wb") as stream:
            process = subprocess.Popen(_pytest(session, names), cwd=ROOT, stdout=stream, stderr=stream)
        running.append((" ".join(names), log, process))
    for name, log, process in running:
        status = process.wait()
        text = log.read_text(errors="replace")
        summary = (text.strip().splitlines() or [""])[-1]
        session.row(file=name, exit_status=status, summary=summary, output=text[-6000:] if status else "")
        failed += [name] if status else []
    if failed:
        raise SystemExit(f"tests failed: {', '.join(failed)}")


def _pytest(session: Session, names: tuple[str, ...]) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-v", "--durations=20", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=--import-mode=importlib"]
    command += [f"tests/{name}" for name in names]
    if importlib.util.find_spec("xdist") and not session.dry:  # most of the time compiles
        command += ["-n", str(max(1, (os.cpu_count() or 1) // 2))]
    if names[0].startswith("kernels"):
        command += ["--device", session.device.type]
    return command + (["-k", "in_every_dtype or addresses"] if session.dry else [])


def profile(session: Session) -> None:
    """Time of each kernel of each row of table 6, and its share of the bytes that must move."""
    activities = [torch.profiler.ProfilerActivity.CPU if session.dry else torch.profiler.ProfilerActivity.CUDA]
    for row in DRY_ROWS if session.dry else ROWS:
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
                shape=case.shape, direction=case.direction, moved_bytes=Sizes(case).moved,
                kernels=[_kernel_row(e) for e in profiler.key_averages() if session.dry or _on_device(e)][:20],
            )  # fmt: skip


def _kernel_row(event: Any) -> dict[str, Any]:
    total_us = event.self_device_time_total or event.self_cpu_time_total
    return {"name": event.key[:100], "calls": event.count, "mean_us": total_us / max(event.count, 1)}


def _on_device(event: Any) -> bool:
    return bool(event.device_type == torch.autograd.DeviceType.CUDA)


def _call(case: Case, session: Session) -> Any:
    cases = cases_of(case.operation)
    inputs = cases.inputs(case, torch.Generator(session.device).manual_seed(0))
    leaves = [x.requires_grad_(case.backward) for x in inputs]

    def call() -> Any:
        out = cases.run(case, BACKEND, *leaves)
        return torch.autograd.grad(out, leaves, torch.ones_like(out)) if case.backward else out

    return call


def tuning(session: Session) -> None:
    """Every candidate configuration of each kernel, beside the chosen one."""
    repeat, budget_s = (1, 0.1) if session.dry else (10, 0.2)
    for name, case in DRY_TUNED if session.dry else TUNED:
        for row in tune(name, case, session.device, repeat=repeat, budget_s=budget_s):
            session.row(**row)
