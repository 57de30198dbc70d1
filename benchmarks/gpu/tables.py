"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.gpu.goals import BASELINES, all_goals, name_of, over_published, ratios
from benchmarks.gpu.results import Results, Row


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right; empty without rows."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: Any, digits: int = 3) -> str:
    """A number with some significant digits; a dash for none."""
    return "-" if value is None else f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def report(results: Results) -> str:
    """All tables, with the device's name."""
    device = results.device
    versions = device.get("versions", {})
    head = (
        f"{device.get('device', 'unknown device')}; torch {versions.get('torch')}, triton {versions.get('triton')}; "
        f"copy {number(device.get('copy_gb_per_s'))} GB/s; {results.about.get('started')}."
    )
    parts = [head, *(part for make in SECTIONS for part in make(results) if part)]
    return "\n\n".join(parts) + "\n"


def _goals(results: Results) -> Iterator[str]:
    words = {True: "met", False: "**missed**", None: "not measured"}
    yield table(("goal", "", "measured"), [(g.text, words[g.met], g.measured) for g in all_goals(results)])


def _table6(results: Results) -> Iterator[str]:
    found, rows = ratios(results), []
    for row in results.of("table6"):
        beside = [number(found[name_of(row)].get(name)) for name in BASELINES]
        share = f"{row['floor_share']:.0%}"
        times = number(over_published(row))
        rows.append((row["shape"], row["direction"], number(row["time_ms"]), share, times, *beside))
    yield table(("BxHxWxCxk", "pass", "ms", "of copy", "published", *BASELINES), rows)


def _upsample(results: Results) -> Iterator[str]:
    rows = [
        (row["method"], f"{row['grid']}x{row['grid']}x{row['channels']}", str(row["output_size"][0]), row["dtype"],
         number(row["time_ms"]), number(row.get("peak_above_inputs_mib")), number(row["output_mib"]))
        for row in results.of("upsample")
    ]  # fmt: skip
    yield table(("method", "from", "to", "dtype", "ms", "peak MiB", "result MiB"), rows)


def _upsamplers(results: Results) -> Iterator[str]:
    """Figure 17: from 14x14x384 by 2, 4, 8 and 16."""
    times: dict[str, dict[int, float]] = {}
    for row in results.of("upsamplers"):
        if row["figure"] == 17:
            times.setdefault(row["method"], {})[row["factor"]] = row["time_ms"]
    factors = sorted({factor for found in times.values() for factor in found})
    rows = [(method, *(number(found.get(factor)) for factor in factors)) for method, found in times.items()]
    yield table(("14x14x384, ms", *(f"x{factor}" for factor in factors)), rows)


def _implicit(results: Results) -> Iterator[str]:
    rows = []
    for row in results.of("implicit"):
        stages = ", ".join(f"{name} {number(seconds, 2)}" for name, seconds in row["stages"].items())
        explained = number(100 * row["scores"]["explained_variance"])
        captured = "yes" if row["facts"].get("captured") else "no"
        rows.append((row["preset"], str(row["side"]), number(row["seconds"]), captured, explained, stages))
    yield table(("settings", "px", "s", "graph", "explained, %", "stages, s"), rows)


def _precision(results: Results) -> Iterator[str]:
    def line(row: Row) -> tuple[str, ...]:
        share = row["rms_error"] / row["rms"] if row["finite"] else None
        name = row.get("method") or row["backbone"]
        return name, row["dtype"], "yes" if row["finite"] else "**no**", "-" if share is None else f"{share:.2%}"

    yield table(("of", "dtype", "finite", "RMS error"), [line(row) for row in results.of("precision")])


def _memory(results: Results) -> Iterator[str]:
    rows = [
        (row["method"], "x".join(map(str, row["shape"])), number(row["peak_bytes"] and row["peak_bytes"] / 1e9),
         number(row["budget_bytes"] and row["budget_bytes"] / 1e9), number(row["seconds"]))
        for row in results.of("memory") if "shape" in row
    ]  # fmt: skip
    yield table(("method", "CxHxW", "peak GB", "budget GB", "s"), rows)
    for row in results.of("memory"):
        if row.get("ran_out"):
            yield f"Out of memory on purpose: largest difference {row['largest_difference']:g} after halving bands."


def _training(results: Results) -> Iterator[str]:
    rows = [(row["target"], str(row["batch"]), number(row["steps_per_s"])) for row in results.of("training")]
    yield table(("target", "batch", "steps a second"), rows)


def _profile(results: Results) -> Iterator[str]:
    rows = []
    for row in results.of("profile"):
        for kernel in sorted(row["kernels"], key=lambda kernel: -kernel["mean_us"] * kernel["calls"])[:2]:
            rate = row["moved_bytes"] / max(kernel["mean_us"], 1e-9) / 1e3
            rows.append((name_of(row), kernel["name"][:50], number(kernel["mean_us"]), number(rate)))
    yield table(("row", "kernel", "us", "GB/s of what must move"), rows)


def _tuning(results: Results) -> Iterator[str]:
    """Where another configuration was faster than the chosen one."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in results.of("tuning"):
        groups.setdefault((row["shape"], row["kernel"]), []).append(row)
    rows = []
    for (shape, kernel), candidates in groups.items():
        best = min(candidates, key=lambda row: row["time_ms"])
        chosen = next(row for row in candidates if row["chosen"])
        rows.append((shape, kernel, number(chosen["time_ms"]), number(best["time_ms"]), str(best["config"])))
    yield table(("shape", "kernel", "chosen ms", "best ms", "best"), rows)


def _ends(results: Results) -> Iterator[str]:
    rows = [(name, end["status"], number(end["seconds"])) for name, end in results.ends.items()]
    yield table(("step", "end", "s"), rows)


SECTIONS = (
    _goals, _table6, _upsample, _upsamplers, _implicit, _precision, _memory, _training, _profile, _tuning, _ends
)  # fmt: skip
