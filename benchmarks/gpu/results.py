"""What one run or several left in results.jsonl, by step."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Results:
    """Rows and ends of steps.

    Attributes:
        about: when the last run began, of which commit, and whether it was a dry run.
        rows: of each step, in the order in which they were measured.
        ends: how each step ended: status, seconds, error, and `started` and `commit` of its run.
    """

    about: Row = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    ends: dict[str, Row] = field(default_factory=dict)

    def of(self, step: str) -> list[Row]:
        """The rows of a step that hold figures."""
        return [row for row in self.rows.get(step, []) if "skipped" not in row and "wrong" not in row]

    @property
    def device(self) -> Row:
        """Facts about the device; empty if that step left none."""
        return next(iter(self.of("device")), {})

    @property
    def slug(self) -> str:
        """The device's name for a file: `nvidia_h100_80gb_hbm3`."""
        name = str(self.device.get("device", "unknown device")).split(",")[0]
        return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")

    def record(self) -> Row:
        """All of it as one JSON value."""
        steps = {name: {**end, "rows": self.rows.get(name, [])} for name, end in self.ends.items()}
        return {**self.about, "device": self.device.get("device"), "steps": steps}


def read(folder: Path) -> Results:
    """Read OUT/results.jsonl; a last line that was cut short is left out."""
    results = Results()
    for line in (folder / "results.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        step = row.pop("step")
        if step == "run":
            results.about = row
        elif "status" in row:
            results.ends[step] = row | {key: results.about.get(key) for key in ("started", "commit")}
        else:
            results.rows.setdefault(step, []).append(row)
    return results


def read_all(folders: Sequence[Path]) -> Results:
    """Read several runs on one device: a step that was run again replaces the earlier one, rows and all."""
    combined = Results()
    for found in map(read, folders):
        combined.about = found.about
        combined.ends |= found.ends
        combined.rows |= {step: found.rows.get(step, []) for step in {**found.ends, **found.rows}}
    return combined
