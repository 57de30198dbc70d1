"""Peak and free memory of a device."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
# Shares of the free memory are never planned to the last byte: estimates are rough, and others use the machine.
USABLE_SHARE = 0.8


@dataclass(frozen=True)
class Peak:
    """Peak memory of a call; both are None where it can't be measured.

    Attributes:
        above_bytes: peak above what was resident before the call: outputs and scratch.
        absolute_bytes: CUDA: peak of all tensors on the device. CPU: peak resident set of the whole process.
        why_not: the reason that there is no figure.
    """

    above_bytes: int | None
    absolute_bytes: int | None
    why_not: str | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values, in MiB."""
        record: dict[str, Any] = {
            "peak_above_inputs_mib": None if self.above_bytes is None else self.above_bytes / MIB,
            "peak_absolute_mib": None if self.absolute_bytes is None else self.absolute_bytes / MIB,
        }
        return record if self.why_not is None else record | {"peak_skipped": self.why_not}


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def _return_free_memory() -> None:
    """Make glibc give freed memory back, so that an allocation of the call can't hide in it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _cpu_peak(call: Callable[[], Any]) -> Peak:
    try:
        _return_free_memory()
        # Writing 5 sets the kernel's own high-water mark back to the present resident set: exact, nothing is sampled.
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
    except (OSError, TypeError):  # Windows can't open the C library by no name
        return Peak(None, None, "peak memory on the CPU is read from Linux's /proc")
    result = call()
    peak = _status_bytes("VmHWM")
    del result
    return Peak(max(0, peak - before), peak)


def peak_memory(call: Callable[[], Any], device: torch.device) -> Peak:
    """Run a call once and measure its peak memory; what it returns counts, and is freed.

    CUDA: PyTorch's allocator, exact to 512 bytes. CPU: the peak resident set that Linux keeps of this process, exact to
    a page of 4 KiB per thread or so; scratch of any library counts. Elsewhere there is no figure.
    """
    if device.type == "cpu":
        return _cpu_peak(call)
    if device.type != "cuda":
        call()
        return Peak(None, None, f"peak memory is not measured on {device.type}")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    del result
    return Peak(peak - before, peak)


def free_bytes(device: torch.device) -> int | None:
    """Memory that a process could still get; None where that can't be found out."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(1024 * int(line.split()[1]), _control_group_bytes())
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _control_group_bytes() -> int:
    """What a container's limit leaves free; a very large number without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return 2**63
    return 2**63 if limit == "max" else max(0, int(limit) - int(used))


def why_it_does_not_fit(needed_bytes: float, device: torch.device) -> str | None:
    """The reason not to start something that needs this much memory, or None if it fits."""
    free = free_bytes(device)
    if free is None or needed_bytes <= USABLE_SHARE * free:
        return None
    return f"needs about {needed_bytes / 2**30:.3g} GiB and {free / 2**30:.3g} GiB are free"
