"""Table 6 of FeatUp: the shapes and the figures that the paper published (its GPU is not named)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from featup_kernels.adaptive_conv import OPERATION as ADAPTIVE_CONV
from featup_kernels.operation import Case

from featup_cli.benchmarking.kernels import measure_cases
from featup_cli.benchmarking.settings import Settings, parse_shape
from featup_cli.core.progress import Announce


@dataclass(frozen=True)
class Published:
    """One implementation in one row: milliseconds forward and backward, and peak memory in MB."""

    forward_ms: float
    backward_ms: float
    memory_mb: float


@dataclass(frozen=True)
class Row:
    """One shape (batch x height x width x channels x window) with the paper's figures; None where it has none."""

    shape: str
    featup: Published
    unfold: Published
    torchscript: Published | None = None

    def case(self, *, backward: bool, dtype: str = "float32") -> Case:
        """The row as a case of `adaptive_conv`."""
        return Case(*parse_shape(self.shape), ADAPTIVE_CONV.name, dtype=dtype, backward=backward)

    def record(self, *, backward: bool) -> dict[str, Any]:
        """The published figures of one direction as JSON values."""
        sources = {"featup": self.featup, "unfold": self.unfold, "torchscript": self.torchscript}
        record: dict[str, Any] = {}
        for name, figures in sources.items():
            if figures is not None:
                record[f"{name}_ms"] = figures.backward_ms if backward else figures.forward_ms
                record[f"{name}_mb"] = figures.memory_mb
        return record


ROWS = (
    Row("1x14x14x2048x5", Published(0.15, 1.05, 6.24), Published(3.30, 2.81, 119), Published(2455, 69367, 12.8)),
    Row("1x512x512x3x5", Published(0.55, 2.10, 10.2), Published(3.47, 4.85, 231), Published(147, 520, 24.3)),
    Row("16x32x32x2048x5", Published(8.43, 90.8, 372), Published(118, 218, 6628)),
    Row("32x512x512x3x5", Published(17.7, 114, 326), Published(36.0, 104, 4901)),
    Row("64x14x14x2048x5", Published(6.12, 61.1, 400), Published(57.5, 170, 5174)),
    Row("64x224x224x3x5", Published(6.27, 36.1, 128), Published(16.7, 27.4, 1878)),
    Row("64x64x64x16x5", Published(1.06, 8.99, 44.5), Published(7.18, 14.5, 822)),
    Row("64x64x64x16x7", Published(2.00, 8.36, 52.6), Published(10.8, 25.6, 1596)),
)


def measure(settings: Settings, device: torch.device, note: Announce) -> dict[str, Any]:
    """The rows, forward and backward, each with the published figures and their ratio to ours."""
    directions = [(row, backward) for row in ROWS for backward in (False, True)]
    cases = [row.case(backward=backward, dtype=settings.dtype) for row, backward in directions]
    found = measure_cases(cases, settings, device, note)
    for record, (row, backward) in zip(found["rows"], directions, strict=True):
        record["published"] = row.record(backward=backward)
        if "time_ms" in record:
            record["published_ratio"] = record["published"]["featup_ms"] / record["time_ms"]
    return found
