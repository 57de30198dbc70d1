"""What is tuned of an operation: each module here is called as its operation and lists its kernels as KERNELS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from featup_kernels.cases import cases_of
from featup_kernels.operation import Case
from torch import Tensor

MOST_THREADS = 1024  # of a program, on any GPU
Generator = torch.Generator


@dataclass(frozen=True)
class Kernel:
    """A function of an operation's Triton module that takes a configuration.

    Attributes:
        operation: its name.
        function: its name.
        arguments: of a case, for a generator of random numbers on the device: all but the configuration.
        default: the record that is chosen for a case.
        others: changes of that record that make sensible records beside it, for a case.
    """

    operation: str
    function: str
    arguments: Callable[[Case, Generator], tuple[Any, ...]]
    default: Callable[[Case], Any]
    others: Callable[[Any, Case], list[dict[str, int]]]


def inputs(case: Case, generator: Generator) -> tuple[Tensor, ...]:
    """The inputs of a case; arguments of a forward kernel."""
    return cases_of(case.operation).inputs(case, generator)


def d_out(case: Case, generator: Generator) -> Tensor:
    """A gradient of the output."""
    shape = cases_of(case.operation).output(case)
    return torch.randn(shape, dtype=getattr(torch, case.dtype), device=generator.device, generator=generator)


def d_source_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    """Arguments of `d_source` of an operation that is linear in its source."""
    source, taps = inputs(case, generator)
    return d_out(case, generator), taps, tuple(source.shape[2:])


def d_taps_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    """Arguments of `d_taps` of an operation that is linear in its taps."""
    return d_out(case, generator), inputs(case, generator)[0], case.window


def half(number: int) -> int:
    """Half of a number, at least 1."""
    return max(1, number // 2)


def variants(config: Any, changes: list[dict[str, int]]) -> list[Any]:
    """The record with each set of changes, without repetitions, the record itself, and what has too many threads."""
    found: list[Any] = []
    for change in changes:
        other = replace(config, **change)
        if other.threads <= MOST_THREADS and other != config and other not in found:
            found.append(other)
    return found
