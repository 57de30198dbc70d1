"""One step in its process: `python -m benchmarks.gpu.session STEP --results FILE [--dry]`."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.steps import STEPS


@dataclass(frozen=True)
class Session:
    """Where a step runs and where its rows go.

    Attributes:
        step: its name.
        results: file of JSON lines, to which rows are added one by one: what is there survives a kill.
        dry: small sizes on a CPU, to see that the step works.
    """

    step: str
    results: Path
    dry: bool

    @property
    def device(self) -> torch.device:
        """The first GPU; a CPU in a dry run."""
        return torch.device("cpu" if self.dry else "cuda")

    def row(self, **values: Any) -> None:
        """Write one row of JSON values."""
        with self.results.open("a") as stream:
            stream.write(json.dumps({"step": self.step, **values}) + "\n")
        print({key: value for key, value in values.items() if not isinstance(value, (dict, list))}, flush=True)


def main() -> None:
    """Run the step that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=[step.name for step in STEPS])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    step = next(step for step in STEPS if step.name == given.step)
    module, function = step.function.split(":")
    getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(Session(step.name, given.results, given.dry))


if __name__ == "__main__":
    main()
