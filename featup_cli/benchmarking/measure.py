"""Clocks: the time of calls, and the bandwidth of memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featup_cli.core.memory import MIB, Peak, free_bytes, peak_memory

Call = Callable[[int], Any]
"""Something to time; the number counts up, so that the call can rotate over its inputs."""

WARM_UP_MS = 50.0
WARM_UP_CALLS = 10
COPY_MIB = 256
UNKNOWN_CACHE = 64 * MIB


@dataclass(frozen=True)
class Timing:
    """Times of single calls.

    Attributes:
        samples_ms: one for each timed call.
        launch_ms: CUDA: median time for the host to issue a call; a call that takes no longer is launch-bound.
        warmed_up: False if the very first call took longer than the budget and is the only sample.
    """

    samples_ms: tuple[float, ...]
    launch_ms: float | None = None
    warmed_up: bool = True

    @property
    def median_ms(self) -> float:
        """The time to quote."""
        return statistics.median(self.samples_ms)

    def record(self) -> dict[str, Any]:
        """Median, quartiles and smallest time as JSON values."""
        low, high = self.samples_ms[0], self.samples_ms[0]
        if len(self.samples_ms) > 1:
            low, _, high = statistics.quantiles(self.samples_ms, n=4, method="inclusive")
        record: dict[str, Any] = {
            "time_ms": self.median_ms, "time_q1_ms": low, "time_q3_ms": high, "time_min_ms": min(self.samples_ms),
            "repeats": len(self.samples_ms), "warmed_up": self.warmed_up,
        }  # fmt: skip
        if self.launch_ms is not None:
            record["launch_ms"] = self.launch_ms
        return record


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work; does nothing on the CPU."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def times_ms(call: Call, device: torch.device, first: int, count: int) -> tuple[list[float], list[float]]:
    """Times of call(first), ..., call(first + count - 1), and on CUDA the times for the host to issue them.

    CUDA: events around each call, issued back to back. Elsewhere: a clock around each call, synchronised.
    """
    if device.type != "cuda":
        times = []
        for i in range(first, first + count):
            synchronize(device)
            start = time.perf_counter()
            call(i)
            synchronize(device)
            times.append(1e3 * (time.perf_counter() - start))
        return times, []
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    launches = []
    synchronize(device)
    for i, (start_event, end_event) in enumerate(events):
        start_event.record()
        start = time.perf_counter()
        call(first + i)
        launches.append(1e3 * (time.perf_counter() - start))
        end_event.record()
    synchronize(device)
    return [start_event.elapsed_time(end_event) for start_event, end_event in events], launches


def time_calls(call: Call, device: torch.device, *, repeat: int, budget_s: float) -> Timing:
    """Warm up, then time calls.

    Args:
        call: what to time.
        device: where it runs.
        repeat: timed calls, fewer if the budget doesn't last; always at least one.
        budget_s: seconds. If the first call takes longer, it is the only one.
    """
    times, launches = times_ms(call, device, 0, 1)
    if times[0] > 1e3 * budget_s:
        return Timing(tuple(times), statistics.median(launches) if launches else None, warmed_up=False)
    done = 1
    while sum(times) < WARM_UP_MS and done < WARM_UP_CALLS:
        times += times_ms(call, device, done, 1)[0]
        done += 1
    count = max(1, min(repeat, int(1e3 * budget_s / max(times[-1], 1e-6))))
    samples, launches = times_ms(call, device, done, count)
    return Timing(tuple(samples), statistics.median(launches) if launches else None)


def weigh(call: Callable[[], Any], device: torch.device) -> tuple[Peak, float]:
    """Peak memory of one call and the seconds that it took."""
    seconds = []

    def timed() -> Any:
        start = time.perf_counter()
        result = call()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
        return result

    peak = peak_memory(timed, device)
    return peak, seconds[0]


def time_and_weigh(call: Call, device: torch.device, *, repeat: int, budget_s: float) -> tuple[Timing, Peak]:
    """Time and peak memory of calls; one that takes longer than the budget runs once for both.

    On a GPU the first call compiles kernels, which can take longer than any budget: it counts for nothing.
    """
    if device.type == "cuda":
        call(0)
    peak, first_s = weigh(lambda: call(0), device)
    if first_s > budget_s:
        return Timing((1e3 * first_s,), warmed_up=False), peak
    return time_calls(call, device, repeat=repeat, budget_s=budget_s), peak


def cache_bytes(device: torch.device) -> int:
    """Size of the last-level cache; 64 MiB if it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 1024, "M": MIB}
    return max((int(size[:-1]) * units.get(size[-1], 1) for size in sizes), default=UNKNOWN_CACHE)


def copies_for(inputs_bytes: int, resident_bytes: int, device: torch.device, most: int = 256) -> int:
    """Number of input copies to rotate over, so that none is still in the cache when it is used again.

    Args:
        inputs_bytes: bytes of one copy.
        resident_bytes: memory that one copy holds while calls are timed (its graph, for gradients).
        device: the copies fill twice its cache, if that fits in a quarter of its free memory.
        most: bound on the number.
    """
    wanted = math.ceil(2 * cache_bytes(device) / max(1, inputs_bytes))
    free = free_bytes(device)
    affordable = free // 4 // max(1, resident_bytes)
    return max(1, min(wanted, affordable, most))


def copy_bandwidths(device: torch.device, budget_s: float = 2.0) -> tuple[float, float]:
    """Bytes read and written a second by large copies: into a buffer in use, and into memory fresh from the allocator.

    Each is timed for `budget_s` at most. The first sets the floor. The second is lower on a CPU, where the system
    hands out large blocks page by page.
    """
    size = min(max(COPY_MIB * MIB, 4 * cache_bytes(device)), free_bytes(device) // 8)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    timings = (
        time_calls(work, device, repeat=20, budget_s=budget_s)
        for work in (lambda i: target.copy_(source), lambda i: source.clone())
    )
    reused, fresh = (2e3 * size / timing.median_ms for timing in timings)
    return reused, fresh
