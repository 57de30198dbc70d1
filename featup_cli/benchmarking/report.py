"""Benchmark results as tables for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featup_cli.benchmarking.settings import BASELINES, EXTRA_BASELINES
from featup_cli.benchmarking.suites import SUITES
from featup_cli.core.references import resolve
from featup_cli.core.text import counted

Row = dict[str, Any]
Columns = list[tuple[str, Callable[[Row], str]]]


def number(value: float | None, digits: int = 3) -> str:
    """A number with this many significant digits, without an exponent; a dash for None."""
    if value is None:
        return "-"
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 or value == 0 else "0.0001"


def field(name: str, times: float = 1) -> Callable[[Row], str]:
    """A column that shows a number of the row, or a dash if the row lacks it."""
    return lambda row: number(None if row.get(name) is None else times * row[name])


def quartiles(row: Row) -> str:
    """First and third quartile of the time."""
    return f"{number(row['time_q1_ms'], 2)}-{number(row['time_q3_ms'], 2)}"


def ratio_to(baseline: str) -> Callable[[Row], str]:
    """A column that shows a baseline's time over ours."""
    return lambda row: number(row["baselines"].get(baseline, {}).get("ratio"))


TEXTS = ("", "kernel", "method", "stage", "pass", "BxHxWxCxk")
TIME: Columns = [("time\nms", field("time_ms")), ("quartiles\nms", quartiles)]
MEMORY: Columns = [
    ("peak above\ninputs, MiB", field("peak_above_inputs_mib")),
    ("absolute\npeak, MiB", field("peak_absolute_mib")),
]
CASE: Columns = [("BxHxWxCxk", lambda row: row["shape"]), ("pass", lambda row: row["direction"])]
FLOOR: Columns = [
    ("floor\nms", lambda row: number(row.get("floor_ms"), 2)),
    ("of it\n%", field("floor_share", 100)),
]
PAPER: Columns = [
    ("paper\nms", lambda row: number(row["published"]["featup_ms"])),
    ("times\nfaster", field("published_ratio")),
]
UPSAMPLER: Columns = [
    ("method", lambda row: method_name(row)),
    ("C x h x w", lambda row: f"{row['channels']}x{row['grid']}x{row['grid']}"),
    ("by", lambda row: str(row["factor"])),
    *TIME,
    *MEMORY,
    ("GFLOP", field("gflop")),
]
STAGE: Columns = [("stage", lambda row: row["stage"]), ("", lambda row: row["about"]), *TIME, *MEMORY]


def make_table(title: str, columns: Columns, rows: list[Row]) -> Table:
    """A table of all rows that were not skipped; texts to the left, numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading, _ in columns:
        justify: Literal["left", "right"] = "left" if heading in TEXTS else "right"
        table.add_column(heading, justify=justify, vertical="bottom", no_wrap=heading != "")
    for row in rows:
        if "skipped" not in row:
            table.add_row(*(cell(row) for _, cell in columns))
    return table


def method_name(row: Row) -> str:
    """The method of a row, marked if it is in the form that its paper prints."""
    return f"{row['method']}{' (printed)' if 'settings' in row else ''}"


def contestant_rows(row: Row) -> list[Row]:
    """The kernel of one case and its baselines as rows of one table."""
    ours = row | {"name": f"{row['operation']} ({row['backend']})", "ratio": 1.0}
    return [ours, *({"name": name} | figures for name, figures in row["baselines"].items())]


CONTESTANT: Columns = [("kernel", lambda row: row["name"]), *TIME, ("time over\nours", field("ratio")), *MEMORY]


def row_name(row: Row) -> str:
    """The name of a row, for a line of its own."""
    if "stage" in row:
        return str(row["stage"])
    if "method" in row:
        setting = f" {row['channels']}x{row['grid']}x{row['grid']} by {row['factor']}" if "figure" in row else ""
        return f"{method_name(row)}{setting}"
    return f"{row['operation']} {row['shape']} {row['direction']}"


def notes(rows: list[Row]) -> list[str]:
    """The parts that were skipped or only partly checked, with reasons."""
    lines: list[str] = []
    for row in rows:
        reasons = [f"skipped: {row['skipped']}"] if "skipped" in row else []
        reasons += [
            f"{name} skipped: {figures['skipped']}"
            for name, figures in row.get("baselines", {}).items()
            if "skipped" in figures
        ]
        reasons += [row[key] for key in ("peak_skipped", "gflop_skipped") if key in row]
        parts = row.get("check", {}).get("parts", ["whole"])
        if "operation" in row and parts != ["whole"]:
            reasons.append(f"checked at {'; '.join(parts)}")
        lines += [f"{row_name(row)}: {reason}" for reason in reasons]
    return lines


def render(report: Row) -> RenderableType:
    """A report of `benchmark` as tables, at most 80 columns wide, with notes below."""
    machine = (
        f"{report['device_name']}, {counted(report['threads'], 'CPU thread')}, torch {report['versions']['torch']}"
    )
    suite = SUITES.get(report["benchmark"])
    tables = kernel_tables(report) if suite is None else resolve(suite.tables)(report)
    return Group(Text(machine, style="bold"), *tables, *(Text(line, style="dim") for line in notes(report["rows"])))


def upsampler_tables(report: Row) -> list[RenderableType]:
    """A table for each figure of the paper."""
    rows: list[Row] = report["rows"]
    return [
        make_table(f"Figure {figure}", UPSAMPLER, [row for row in rows if row.get("figure") == figure])
        for figure in (17, 16)
    ]


def stage_tables(report: Row) -> list[RenderableType]:
    """A table of the stages of the main job."""
    return [make_table("Stages of the main job", STAGE, report["rows"])]


def kernel_tables(report: Row) -> list[RenderableType]:
    """Tables of kernel cases: contestants of a single case, else one row for each case."""
    rows: list[Row] = report["rows"]
    first = rows[0]
    parts: list[RenderableType] = [
        Text(
            f"{first['operation']}, {first['backend']} kernels, {first['dtype']}; "
            f"copy bandwidth {number(report['copy_gib_per_s'])} GiB/s "
            f"({number(report['fresh_copy_gib_per_s'])} into fresh memory)"
        )
    ]
    if len(rows) == 1:
        if "skipped" in first:
            return parts
        floor = (
            f"{first['shape']} {first['direction']}: memory floor {number(first['floor_ms'])} ms, "
            f"{number(100 * first['floor_share'])} % of it reached"
        )
        return [*parts, make_table(floor, CONTESTANT, contestant_rows(first))]
    known = (*BASELINES, *EXTRA_BASELINES)
    named = [name for name in known if any(name in row.get("baselines", {}) for row in rows)]
    baselines: Columns = [(name, ratio_to(name)) for name in named]
    own: Columns = [("results\nMiB", field("results_mib")), ("scratch\nMiB", field("scratch_mib"))]
    return [
        *parts,
        make_table("Time", CASE + TIME + FLOOR + (PAPER if "published" in first else []), rows),
        make_table("Times faster than the baselines", CASE + baselines, rows),
        make_table("Memory", CASE + own + MEMORY, rows),
    ]
