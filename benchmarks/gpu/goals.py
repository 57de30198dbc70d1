"""What a GPU should reach, and whether it was reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.gpu.results import Results, Row

FORWARD_SHARE, BACKWARD_SHARE = 0.7, 0.5  # of the copy bandwidth, where the data exceed the cache
TIMES_PUBLISHED = 3.0
SCRATCH_SHARE = 0.01
BASELINES = ("reference", "loop", "compile", "torchscript", "flex")
LIMITS_MS = {("jbu", 384, 14): 1.0, ("jbu", 384, 28): 3.0}  # method, channels, grid
IMPLICIT_S = 5.0


@dataclass(frozen=True)
class Goal:
    """One goal and what was measured; `met` is None where nothing was."""

    text: str
    met: bool | None
    measured: str


def all_goals(results: Results) -> list[Goal]:
    """Every goal, in the order of the steps."""
    return [*_of_table6(results), *_of_upsamplers(results), _of_implicit(results), _of_tests(results)]


def exceeds_cache(row: Row, results: Results) -> bool:
    """Whether what a row moves does not fit into the device's last-level cache."""
    return row["moved_mib"] * 2**20 > results.device.get("cache_bytes", 0)


def launch_bound(row: Row) -> bool:
    """Whether the host takes most of a call's time to issue it."""
    return row.get("launch_ms", 0.0) > 0.5 * row["time_ms"]


def name_of(row: Row) -> str:
    """A row of table 6 in a few words."""
    return f"{row['shape']} {row['direction']}"


def ratios(results: Results) -> dict[str, dict[str, float]]:
    """Times of the baselines over ours, by name, for each row of table 6."""
    found: dict[str, dict[str, float]] = {}
    for row in results.of("table6") + results.of("compiled"):
        timed = {name: figures["ratio"] for name, figures in row["baselines"].items() if "ratio" in figures}
        found.setdefault(name_of(row), {}).update(timed)
    return found


def _each(text: str, rows: list[Row], good: Callable[[Row], bool], show: Callable[[Row], str]) -> Goal:
    """A goal that every row must meet; what is told are the rows that miss it."""
    if not rows:
        return Goal(text, None, "not measured")
    bad = [f"{name_of(row)} {show(row)}" for row in rows if not good(row)]
    return Goal(
        text, not bad, f"{len(rows) - len(bad)} of {len(rows)}" + (f"; missed: {', '.join(bad)}" if bad else "")
    )


def _of_table6(results: Results) -> Iterator[Goal]:
    rows = results.of("table6")
    for direction, share in (("forward", FORWARD_SHARE), ("backward", BACKWARD_SHARE)):
        chosen = [row for row in rows if row["direction"] == direction and exceeds_cache(row, results)]
        yield _each(
            f"{direction} at least {share:.0%} of the copy bandwidth where the data exceed the cache", chosen,
            lambda row, least=share: row["floor_share"] >= least, lambda row: f"{row['floor_share']:.0%}",
        )  # fmt: skip
    found = ratios(results)
    for name in BASELINES:
        beside = [row | {"ratio": found[name_of(row)][name]} for row in rows if name in found[name_of(row)]]
        yield _each(
            f"ahead of {name} in every row", beside, lambda row: row["ratio"] > 1, lambda row: f"{row['ratio']:.2f}"
        )
    published = [row for row in rows if not launch_bound(row)]
    yield _each(
        f"{TIMES_PUBLISHED:g} times the published figures where launches don't dominate", published,
        lambda row: over_published(row) >= TIMES_PUBLISHED, lambda row: f"{over_published(row):.2f}",
    )  # fmt: skip
    weighed = [row for row in rows if row.get("scratch_mib") is not None]
    yield _each(
        f"memory above inputs and results under {SCRATCH_SHARE:.0%}", weighed,
        lambda row: _scratch(row) < SCRATCH_SHARE, lambda row: f"{_scratch(row):.1%}",
    )  # fmt: skip


def over_published(row: Row) -> float:
    """The paper's time over ours."""
    return float(row["published"]["featup_ms"] / row["time_ms"])


def _scratch(row: Row) -> float:
    return float(row["scratch_mib"] / (row["inputs_mib"] + row["results_mib"]))


def _of_upsamplers(results: Results) -> Iterator[Goal]:
    rows = {(row["method"], row["channels"], row["grid"]): row["time_ms"] for row in results.of("upsample")}
    for key, limit in LIMITS_MS.items():
        method, channels, grid = key
        text = f"{method} {grid}x{grid}x{channels} to {16 * grid} under {limit:g} ms"
        found = rows.get(key)
        yield Goal(
            text, None if found is None else found < limit, "not measured" if found is None else f"{found:.2f} ms"
        )


def _of_implicit(results: Results) -> Goal:
    rows = [row for row in results.of("implicit") if (row["preset"], row["side"]) == ("default", 224)]
    text = f"implicit of a 224 px picture under {IMPLICIT_S:g} s"
    if not rows:
        return Goal(text, None, "not measured")
    seconds = min(row["seconds"] for row in rows)
    return Goal(text, seconds < IMPLICIT_S, f"{seconds:.2f} s")


def _of_tests(results: Results) -> Goal:
    rows = results.rows.get("tests", [])
    if not rows:
        return Goal("kernel tests pass on the device", None, "not measured")
    failed = [row["file"] for row in rows if row["exit_status"]]
    return Goal("kernel tests pass on the device", not failed, ", ".join(failed) or f"{len(rows)} files")
