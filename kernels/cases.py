"""The `Cases` of an operation, for benchmarks and tests, and helpers that operations share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from featup_kernels.operation import Case
from featup_kernels.registry import OPERATIONS
from torch import Tensor

# Values in one float64 buffer of the reference while a result is checked (128 MiB); it has a handful of them.
CHECKED_VALUES = 2**24
ALL = slice(None)
Shape = tuple[int, ...]
Slices = tuple[slice, ...]


def output_shape(case: Case) -> Shape:
    """[batch, channels, height, width]."""
    return case.batch, case.channels, case.height, case.width


def taps_shape(case: Case) -> Shape:
    """[batch, window * window, height, width]."""
    return case.batch, case.window**2, case.height, case.width


def tap_spread(case: Case, name: str) -> float:
    """Spread of taps such that a sum over a window is of order one."""
    return 1 / case.window if name == "taps" else 1


def with_halo(case: Case, rows: slice) -> slice:
    """The rows of a padded source that the windows of some rows of the output see."""
    return slice(rows.start, rows.stop + case.window - 1)


def tap_loop(source: Tensor, taps: Tensor, step: int = 1) -> Tensor:
    """The eager loop over taps: one product of maps for each, `step` pixels apart; nothing is unfolded."""
    side = math.isqrt(taps.shape[1])
    height, width = taps.shape[2:]
    out = taps.new_zeros(source.shape[0], source.shape[1], height, width)
    for t in range(side * side):
        dy, dx = t // side * step, t % side * step
        out = out + taps[:, t : t + 1] * source[:, :, dy : dy + height, dx : dx + width]
    return out


def filter_flops(source: Tensor, taps: Tensor, *rest: object, out_val: Tensor) -> int:
    """A multiplication and an addition for each tap of each output."""
    return 2 * taps.shape[1] * out_val.numel()


@dataclass(frozen=True)
class Part:
    """A part of the inputs that fixes a part of the output: slices of each input and of the output."""

    about: str
    inputs: tuple[Slices, ...]
    output: Slices


@dataclass(frozen=True)
class Cases:
    """How to measure and check an operation.

    Attributes:
        shapes: of a case: the shapes of its differentiable inputs, by name; () of scalars.
        run: of a case, a backend and the inputs: the output.
        loop: of a case and the inputs: the same by an eager loop over taps.
        cut: of a case, and slices of the output's batch, channels and rows: slices of each input that fix this part.
        output: of a case: the shape of its output.
        spread: of a case and the name of an input: standard deviation of its random values, so that the output is of
            order one; scalars are ones.
        flops: of the operator's arguments and its result `out_val`: floating-point operations.
        cuts: which of channels and rows can be cut; batch elements always can.
        reads_output: whether the gradients are made of the output too, as those of a softmax are.
        attention: whether attention over windows computes it, where taps are positive and sum to one.
    """

    shapes: Callable[[Case], dict[str, Shape]]
    run: Callable[..., Tensor]
    loop: Callable[..., Tensor]
    cut: Callable[[Case, slice, slice, slice], tuple[Slices, ...]]
    output: Callable[[Case], Shape] = output_shape
    spread: Callable[[Case, str], float] = tap_spread
    flops: Callable[..., int] = filter_flops
    cuts: tuple[str, ...] = ("channels", "rows")
    reads_output: bool = False
    attention: bool = False

    def inputs(self, case: Case, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Normal noise, on the device of the generator; scalars are float32."""
        device, dtype = generator.device, getattr(torch, case.dtype)

        def make(name: str, shape: Shape) -> Tensor:
            if not shape:
                return torch.ones((), device=device)
            return torch.randn(shape, dtype=dtype, device=device, generator=generator).mul_(self.spread(case, name))

        return tuple(make(name, shape) for name, shape in self.shapes(case).items())

    def input_values(self, case: Case) -> int:
        """Number of values of the inputs; scalars aside."""
        return sum(math.prod(shape) for shape in self.shapes(case).values() if shape)

    def parts(self, case: Case) -> list[Part]:
        """The parts to check: all, or small parts of the first and last batch element, channels and rows."""
        channels, rows = case.channels, case.height
        of_row = case.width * case.window**2  # values that the reference unfolds of a row of a channel
        if "channels" in self.cuts:
            channels = max(1, min(channels, CHECKED_VALUES // (rows * of_row)))
        if "rows" in self.cuts:
            rows = max(1, min(rows, CHECKED_VALUES // (channels * of_row)))
        whole = (channels, rows) == (case.channels, case.height)
        batch = case.batch if whole and case.batch * channels * rows * of_row <= CHECKED_VALUES else 1
        ends = ("batch elements", case.batch, batch), ("channels", case.channels, channels), ("rows", case.height, rows)
        parts = []
        for last in (0, 1) if any(n < size for _, size, n in ends) else (0,):
            cuts = [slice(last * (size - n), last * (size - n) + n) for _, size, n in ends]
            about = ", ".join(
                f"{name} {cut.start}-{cut.stop - 1} of {size}"
                for cut, (name, size, n) in zip(cuts, ends, strict=True)
                if n < size
            )
            output = (cuts[0], cuts[1] if "channels" in self.cuts else ALL, cuts[2])
            parts.append(Part(about or "whole", self.cut(case, *cuts), output))
        return parts


def cases_of(operation: str) -> Cases:
    """The `CASES` of the operation with this name."""
    cases: Cases = import_module(f"{OPERATIONS[operation].package}.cases").CASES
    return cases
