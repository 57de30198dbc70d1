"""What a run left in results.jsonl, by step."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Results:
    """Rows and ends of the steps of one run.

    Attributes:
        about: when, of which commit, and whether it was a dry run.
        rows: of each step, in the order in which they were measured.
        ends: how each step ended: status, seconds, error.
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
            results.ends[step] = row
        else:
            results.rows.setdefault(step, []).append(row)
    return results
