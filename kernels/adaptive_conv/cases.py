"""`adaptive_conv` for benchmarks and tests."""

from __future__ import annotations

from featup_kernels.adaptive_conv.op import adaptive_conv
from featup_kernels.cases import ALL, Cases, Shape, Slices, tap_loop, taps_shape, with_halo
from featup_kernels.operation import Case
from torch import Tensor


def shapes(case: Case) -> dict[str, Shape]:
    return {"source": (case.batch, case.channels, *case.padded), "taps": taps_shape(case)}


def run(case: Case, backend: str, source: Tensor, taps: Tensor) -> Tensor:
    return adaptive_conv(source, taps, backend=backend)


def loop(case: Case, source: Tensor, taps: Tensor) -> Tensor:
    return tap_loop(source, taps)


def cut(case: Case, batch: slice, channels: slice, rows: slice) -> tuple[Slices, ...]:
    """Channels are independent, and a band of rows needs its halo only."""
    return (batch, channels, with_halo(case, rows)), (batch, ALL, rows)


CASES = Cases(shapes, run, loop, cut, attention=True)
