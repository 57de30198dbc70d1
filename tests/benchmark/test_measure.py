from __future__ import annotations

import sys

import pytest
import torch

from featup_cli.benchmarking import measure
from featup_cli.benchmarking.measure import Timing, copies_for, time_and_weigh, time_calls
from featup_cli.core import memory
from featup_cli.core.memory import MIB, peak_memory, why_it_does_not_fit

CPU = torch.device("cpu")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")


class FakeClock:
    """A clock that only calls move forward; the durations, in seconds, are used in turn and the last one again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *durations: float) -> None:
        self.now, self.durations, self.calls = 0.0, list(durations), []
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)

    def call(self, i: int) -> None:
        self.calls.append(i)
        self.now += self.durations.pop(0) if len(self.durations) > 1 else self.durations[0]


def test_median_and_quartiles_are_those_of_the_samples() -> None:
    record = Timing((4.0, 1.0, 3.0, 2.0, 10.0)).record()
    assert (record["time_ms"], record["time_q1_ms"], record["time_q3_ms"], record["time_min_ms"]) == (3, 2, 4, 1)
    assert record["repeats"] == 5
    assert "launch_ms" not in record


def test_one_sample_is_its_own_quartiles() -> None:
    record = Timing((4.0,)).record()
    assert (record["time_ms"], record["time_q1_ms"], record["time_q3_ms"]) == (4, 4, 4)


def test_warm_up_calls_are_not_counted_and_the_rotation_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, 0.1, 0.001, 0.002, 0.003, 0.004)
    timing = time_calls(clock.call, CPU, repeat=3, budget_s=1)
    assert clock.calls == [0, 1, 2, 3]  # the first took more than the warm-up time
    assert timing.samples_ms == pytest.approx([1, 2, 3])
    assert timing.warmed_up


def test_quick_calls_are_warmed_up_for_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, 0.02)
    assert len(time_calls(clock.call, CPU, repeat=2, budget_s=1).samples_ms) == 2
    assert len(clock.calls) == 3 + 2  # 60 ms of warm-up


def test_repeats_end_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, 0.25)
    assert len(time_calls(clock.call, CPU, repeat=20, budget_s=1).samples_ms) == 4


def test_a_call_beyond_the_budget_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, 30.0)
    timing = time_calls(clock.call, CPU, repeat=20, budget_s=1)
    assert (timing.samples_ms, timing.warmed_up, clock.calls) == ((30000.0,), False, [0])
    timing, _ = time_and_weigh(clock.call, CPU, repeat=20, budget_s=1)
    assert (timing.samples_ms, timing.warmed_up, clock.calls) == ((30000.0,), False, [0, 0])


@linux_only
@pytest.mark.parametrize("mib", [3, 40])
def test_peak_memory_on_the_cpu_counts_what_a_call_frees_again(mib: int) -> None:
    peak = peak_memory(lambda: torch.ones(mib * MIB, dtype=torch.uint8)[0].clone(), CPU)
    assert peak.above_bytes is not None
    assert peak.absolute_bytes is not None
    assert mib - 0.5 < peak.above_bytes / MIB < mib + 2
    assert peak.absolute_bytes > peak.above_bytes


@linux_only
def test_peak_memory_counts_nothing_that_was_there_before() -> None:
    resident = torch.ones(40 * MIB, dtype=torch.uint8)
    peak = peak_memory(lambda: resident.add_(1), CPU)
    assert peak.above_bytes is not None
    assert peak.above_bytes < 2 * MIB


def test_a_system_without_proc_gives_the_reason_instead_of_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(field: str) -> int:
        raise OSError

    monkeypatch.setattr(memory, "_status_bytes", fail)
    record = peak_memory(lambda: None, CPU).record()
    assert record["peak_above_inputs_mib"] is None
    assert "Linux" in record["peak_skipped"]


def test_inputs_are_copied_until_they_exceed_the_cache_twice_or_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "cache_bytes", lambda device: 32 * MIB)
    monkeypatch.setattr(measure, "free_bytes", lambda device: 4000 * MIB)
    assert copies_for(10 * MIB, 10 * MIB, CPU) == 7
    assert copies_for(100 * MIB, 100 * MIB, CPU) == 1
    assert copies_for(10 * MIB, 500 * MIB, CPU) == 2
    assert copies_for(10 * MIB, 5000 * MIB, CPU) == 1
    assert copies_for(100, 100, CPU) == 256


def test_what_does_not_fit_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * 2**30)
    assert why_it_does_not_fit(2**30, CPU) is None
    assert why_it_does_not_fit(3 * 2**30, CPU) == "needs about 3 GiB, but only 2 GiB are free"


def test_copying_has_a_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "COPY_MIB", 1)
    monkeypatch.setattr(measure, "cache_bytes", lambda device: 1024)
    assert all(bandwidth > 1e6 for bandwidth in measure.copy_bandwidths(CPU))
