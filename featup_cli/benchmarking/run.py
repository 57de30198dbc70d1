"""The one call behind `featup bench`: options in, JSON values out."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from featup_cli.benchmarking.kernels import measure_cases
from featup_cli.benchmarking.measure import cache_bytes
from featup_cli.benchmarking.settings import Settings, parse_baselines, parse_case
from featup_cli.benchmarking.suites import SUITES
from featup_cli.core.checks import checked
from featup_cli.core.describe import choose_device, describe_device
from featup_cli.core.memory import MIB
from featup_cli.core.progress import Announce, no_announcement
from featup_cli.core.references import resolve
from featup_cli.core.versions import versions


@checked
def benchmark(  # noqa: PLR0913 (a public call: its keywords mirror the command's options)
    shape: str | None = None,
    *,
    suite: str | None = None,
    op: str | None = None,
    backward: bool = False,
    scale: int | None = None,
    dtype: str = "float32",
    backend: str = "auto",
    baselines: str = "all",
    repeat: int = 20,
    budget: float = 5.0,
    threads: int | None = None,
    device: str = "auto",
    seed: int = 0,
    note: Announce = no_announcement,
) -> dict[str, Any]:
    """Check kernels against the reference, then time them beside baselines and the memory floor.

    Args:
        shape: shape of the output, BATCHxHEIGHTxWIDTHxCHANNELS[xWINDOW]; the window is 5 by default.
        suite: suite to measure instead of a shape; one of `SUITES`.
        op: with a shape: the operation; `adaptive_conv` by default.
        backward: with a shape: time all gradients, not the forward pass.
        scale: with a shape: output pixels per low-resolution pixel, for operations that resize; 16 by default.
        dtype: float32, float16 or bfloat16.
        backend: kernel backend: auto, triton, cpu or reference.
        baselines: all, none, or comma-separated names: reference, loop, compile, bilinear, torchscript, flex.
        repeat: number of timed calls.
        budget: seconds for each timing; a slower call runs once.
        threads: CPU threads; None leaves PyTorch's choice.
        device: auto, cpu, cuda, ...
        seed: seed of the random inputs.
        note: called with status messages.
    Returns:
        Device, versions, date, settings and `rows`, as JSON values with units in their names (docs/benchmarks.md).
    Raises:
        UsageError: an option is invalid; WrongResultError: a kernel is wrong, and nothing was timed.

    Example:
        >>> import featup_cli as featup
        >>> report = featup.benchmark("1x8x8x3", backend="reference", baselines="none", repeat=1, budget=0.1)
        >>> report["rows"][0]["check"]["parts"]
        ['whole']
    """
    case = parse_case(shape, suite, op, scale, backward, dtype)
    names = parse_baselines(baselines)
    settings = Settings(case, suite, dtype, device, backend, repeat, budget, threads, names, seed)
    place = choose_device(device)
    with cpu_threads(threads):
        report: dict[str, Any] = {
            "benchmark": suite or "kernel",
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device": str(place), "device_name": device_name(place), "threads": torch.get_num_threads(),
            "versions": versions(), "settings": asdict(settings), "cache_mib": cache_bytes(place) / MIB,
        }  # fmt: skip
        if case is not None:
            return report | measure_cases([case], settings, place, note)
        return report | resolve(SUITES[report["benchmark"]].run)(settings, place, note)


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
    """The model name of the device; for a CPU from /proc/cpuinfo, if it exists."""
    if device.type != "cpu":
        return describe_device(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()} ({describe_device(device)})"
