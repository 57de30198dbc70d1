"""Tables of runs: one row a method, the same rows for terminals, Markdown and several runs together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featup_cli.backbones.config import describe_weights
from featup_cli.core.errors import InputError
from featup_cli.core.text import counted
from featup_cli.evaluation.registry import BASELINE, OVER_BASELINE, TASKS
from featup_cli.evaluation.task import Column


@dataclass(frozen=True)
class Table:
    """Text cells under titles, the first column being names."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a Markdown table below its title."""
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.header, *self.rows)]
        lines.insert(1, "| --- |" + " ---: |" * (len(self.header) - 1))
        return f"{self.title}\n\n" + "\n".join(lines)


def load_run(path: Path) -> dict[str, Any]:
    """A run that `featup eval` wrote.

    Raises:
        InputError: no such file, or something else.
    """
    try:
        run = json.loads(path.read_text())
        known = run["task"] in TASKS and isinstance(run["methods"], dict)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path}: is no run of `featup eval`; give files that its --output wrote")
    result: dict[str, Any] = run
    return result


def report(paths: Sequence[Path | str]) -> list[Table]:
    """Tables of the runs in files of `featup eval --output`, which are named by their stems; errors as `load_run`."""
    return make_tables([(Path(path).stem, load_run(Path(path))) for path in paths])


def make_tables(runs: Sequence[tuple[str, dict[str, Any]]]) -> list[Table]:
    """One table for each task, with the methods of all its runs; runs are named where there are several of a task."""
    tasks = dict.fromkeys(run["task"] for _, run in runs)
    return [_table([(name, run) for name, run in runs if run["task"] == task]) for task in tasks]


def _table(runs: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    columns = [c for c in TASKS[runs[0][1]["task"]].columns if any(_has(run, c.key) for _, run in runs)]
    main = columns[0]
    several = len(runs) > 1
    spread = any("other_probes" in m for _, run in runs for m in run["methods"].values())
    header = (
        ["run"] * several + ["method"] + [c.title for c in columns] + [f"{main.title.rstrip(' ↑↓')} over {BASELINE}"]
    )
    header += ["sd over probes"] * spread + ["s/picture"]
    rows = []
    for name, run in runs:
        for method, result in run["methods"].items():
            cells = [name] * several + [method]
            cells += [_cell(result["scores"], result["intervals"], c) for c in columns]
            over = result.get(OVER_BASELINE)
            cells.append(_cell(over["scores"], over["intervals"], main, sign="+") if over else "")
            if spread:
                cells.append(_spread(result.get("other_probes", []), main))
            rows.append((*cells, f"{result['seconds_per_picture']:.2f}"))
    return Table("; ".join(dict.fromkeys(describe_run(run) for _, run in runs)), tuple(header), tuple(rows))


def _has(run: dict[str, Any], key: str) -> bool:
    return any(key in result["scores"] for result in run["methods"].values())


def _cell(scores: dict[str, float], intervals: dict[str, list[float]], column: Column, sign: str = "") -> str:
    if column.key not in scores:
        return ""
    text = f"{scores[column.key]:{sign}.{column.digits}f}"
    if column.key in intervals:
        low, high = (f"{value:{sign}.{column.digits}f}" for value in intervals[column.key])
        text += f" [{low}, {high}]"
    return text


def _spread(others: Iterable[dict[str, float]], column: Column) -> str:
    values = [scores[column.key] for scores in others if column.key in scores]
    return f"{np.std(values, ddof=1):.{column.digits}f}" if len(values) > 1 else ""


def describe_run(run: dict[str, Any]) -> str:
    """One line: task, data, number of pictures, backbone, its weights if they aren't the published ones, input size."""
    backbone = run["backbone"]
    layer = f" layer {backbone['layer']}" if backbone.get("layers") else ""
    if "features" in backbone:
        layer = f" {backbone['features']}"
    weights = describe_weights(backbone.get("weights_source", ""))
    layer += f" with {weights}" if weights else ""
    size = f", input {run['resize']}" if run.get("resize") else ""
    return (
        f"{run['task']} on {run['data']}, {counted(run['pictures'], 'picture')}, {backbone['name']}{layer} "
        f"(stride {backbone['stride']}){size}; 95 % intervals over pictures"
    )
