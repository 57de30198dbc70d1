"""The one call behind `featup bench`: settings in, JSON values out."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from featup_cli.benchmark.kernels import Note, measure_case
from featup_cli.benchmark.main_job import measure_main_job
from featup_cli.benchmark.measure import cache_bytes, copy_bandwidths
from featup_cli.benchmark.settings import Settings
from featup_cli.benchmark.table6 import ROWS
from featup_cli.benchmark.upsamplers import measure_upsamplers
from featup_cli.core.describe import choose_device, describe_device, versions
from featup_cli.core.errors import UsageError
from featup_cli.core.memory import MIB


def run_benchmark(settings: Settings, note: Note = lambda text: None) -> dict[str, Any]:
    """Measure one case or one suite.

    Args:
        settings: what to measure and how; exactly one of `case` and `suite`.
        note: told what happens.
    Returns:
        Device, versions, date, settings and `rows`, as JSON values with units in their names (docs/benchmarks.md).
    Raises:
        UsageError: the settings can't be obeyed; WrongResultError: a kernel is wrong, and nothing was timed.
    """
    if (settings.case is None) == (settings.suite is None):
        raise UsageError("give either --shape or --suite")
    device = choose_device(settings.device)
    with cpu_threads(settings.threads):
        report: dict[str, Any] = {
            "benchmark": settings.suite or "kernel",
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device": str(device), "device_name": device_name(device), "threads": torch.get_num_threads(),
            "versions": versions(), "settings": asdict(settings), "cache_mib": cache_bytes(device) / MIB,
        }  # fmt: skip
        if settings.suite == "upsamplers":
            return report | {"rows": measure_upsamplers(settings, device, note)}
        if settings.suite == "pipeline":
            return report | {"rows": measure_main_job(settings, device, note)}
        note("copy bandwidth")
        bandwidth, fresh = copy_bandwidths(device)
        report |= {"copy_gib_per_s": bandwidth / 2**30, "fresh_copy_gib_per_s": fresh / 2**30}
        if settings.case is not None:
            return report | {"rows": [measure_case(settings.case, settings, device, bandwidth, note)]}
        return report | {"rows": measure_table6(settings, device, bandwidth, note)}


def measure_table6(settings: Settings, device: torch.device, copy_bandwidth: float, note: Note) -> list[dict[str, Any]]:
    """The paper's eight rows, forward and backward, each with the published figures and their ratio to ours."""
    measured = []
    for row in ROWS:
        for backward in (False, True):
            record = measure_case(
                row.case(backward=backward, dtype=settings.dtype), settings, device, copy_bandwidth, note
            )
            record["published"] = row.record(backward=backward)
            if "time_ms" in record:
                record["published_ratio"] = record["published"]["featup_ms"] / record["time_ms"]
            measured.append(record)
    return measured


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Let PyTorch, and our kernels with it, use this many CPU threads; None changes nothing."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: torch.device) -> str:
    """The model of the device; for a CPU from Linux's own list, if there is one."""
    if device.type != "cpu":
        return describe_device(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()} ({describe_device(device)})"
