"""Memory: held and free, and the peak of a call. Only this module reads /proc."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featup_cli.core.errors import MemoryBudgetError
from featup_cli.core.units import format_bytes

MIB = 2**20
USABLE_SHARE = 0.8  # of the free memory is planned with where estimates are rough
SHARE = 0.6  # of the free memory is used unless told otherwise
_ASSUMED_HELD, _ASSUMED_FREE = 600_000_000, 4_000_000_000  # where the system doesn't tell: torch, and a small machine


def over_budget(what: str, needed: int, memory: int, instead: str) -> MemoryBudgetError:
    """The error for work that needs about `needed` bytes when the limit is `memory`.

    Args:
        what: start of the message, verb included.
        needed, memory: bytes.
        instead: other remedies, which follow `give --memory 3GB, `.
    """
    enough = math.ceil(needed / 1e8) / 10
    return MemoryBudgetError(
        f"{what} about {format_bytes(needed)}, but the limit is {format_bytes(memory)}; "
        f"give --memory {enough:g}GB, {instead}"
    )


def held_bytes(device: torch.device) -> int:
    """Memory that this process holds: on an accelerator its tensors there, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _ASSUMED_HELD  # not Linux


def trim_heap() -> None:
    """Return freed memory to the system if the C library can; memory that it keeps counts as held."""
    if _trim is not None:
        _trim(0)


def _find_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return None
    return trim


_trim = _find_trim()


def default_memory(device: torch.device) -> int:
    """Default memory limit of this process: the memory that it holds plus a share of the free memory."""
    return held_bytes(device) + int(SHARE * free_bytes(device))


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, or of the machine within the limit of the control group."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min([_free_of_machine(), *_group_room()])


def _free_of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return _ASSUMED_FREE  # not Linux


def _group_room() -> list[int]:
    """Free memory within each control group (container, SLURM job) that has a limit."""
    rooms = []
    for folder in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"), *_own_groups()):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                taken = int((folder / used).read_text()) - _file_cache(folder)
                rooms.append(max(int((folder / limit).read_text()) - taken, 0))
            except (OSError, ValueError):  # no such group, or the limit is "max"
                continue
    return rooms


def _file_cache(folder: Path) -> int:
    """Bytes of cached files, which the kernel frees as soon as memory is needed."""
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0


def _own_groups() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = [line.split(":", 2) for line in lines]
    return [Path("/sys/fs/cgroup", controller, path.lstrip("/")) for _, controller, path in groups if path != "/"]


def why_it_does_not_fit(needed_bytes: float, device: torch.device) -> str | None:
    """The reason why this much memory is too much, or None if it fits."""
    free = free_bytes(device)
    if needed_bytes <= USABLE_SHARE * free:
        return None
    return f"needs about {needed_bytes / 2**30:.3g} GiB, but only {free / 2**30:.3g} GiB are free"


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


def _cpu_peak(call: Callable[[], Any]) -> Peak:
    try:
        trim_heap()
        # Writing 5 sets the kernel's own high-water mark back to the present resident set: exact, nothing is sampled.
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
    except OSError:  # not Linux
        return Peak(None, None, "peak memory on the CPU is read from Linux's /proc")
    result = call()
    peak = _status_bytes("VmHWM")
    del result
    return Peak(max(0, peak - before), peak)


def peak_memory(call: Callable[[], Any], device: torch.device) -> Peak:
    """Run a call once and measure its peak memory. Its result counts, and is freed.

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
