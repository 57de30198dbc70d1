"""Settings of benchmarks; free of torch, so that `featup bench --help` is fast."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from featup_kernels.adaptive_conv import OPERATION as ADAPTIVE_CONV
from featup_kernels.operation import BACKENDS as KERNELS
from featup_kernels.operation import Case
from featup_kernels.registry import OPERATIONS

from featup_cli.benchmarking.suites import SUITES
from featup_cli.core.errors import UsageError
from featup_cli.core.settings import check_not_negative, check_positive
from featup_cli.core.shapes import describe_size

BACKENDS = ("auto", *KERNELS)
SCALED = tuple(name for name, operation in OPERATIONS.items() if operation.scaled)
"""Operations whose source has another size than the output."""
DEFAULT_OPERATION = ADAPTIVE_CONV.name
DEFAULT_WINDOW = 5
DTYPES = ("float32", "float16", "bfloat16")
BASELINES = ("reference", "loop", "compile", "bilinear")
EXTRA_BASELINES = ("torchscript", "flex")
"""Baselines that run only if named: they are slow, or apply to one operation."""


@dataclass(frozen=True)
class Settings:
    """A benchmark: one case or one suite, and how to measure.

    Either `case` or `suite` is None. `budget_s` is the time for each measurement; `dtype` applies to suites. The rest
    is as in `benchmark`.
    """

    case: Case | None = None
    suite: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    backend: str = "auto"
    repeat: int = 20
    budget_s: float = 5.0
    threads: int | None = None
    baselines: tuple[str, ...] = BASELINES
    seed: int = 0

    def __post_init__(self) -> None:
        choose("--dtype", self.dtype, DTYPES)
        choose("--backend", self.backend, BACKENDS)
        check_positive(self, "repeat", *(() if self.threads is None else ("threads",)))
        check_not_negative(self, "budget_s")


def choose(option: str, name: Any, known: Iterable[str]) -> None:
    """Raise UsageError unless the name is known."""
    if name not in known:
        raise UsageError(f"{option} {name}: choose from {', '.join(known)}")


def parse_case(
    shape: str | None, suite: str | None, op: str | None, scale: int | None, backward: bool, dtype: str
) -> Case | None:
    """The case that the options of `featup bench` describe, or None with a suite.

    Raises:
        UsageError: neither or both are given, an option doesn't apply, or a value is unknown.
    """
    if (shape is None) == (suite is None):
        raise UsageError(f"give either --shape BxHxWxC[xK] or --suite {'|'.join(SUITES)}")
    if shape is None:
        choose("--suite", suite, SUITES)
        for name, given in (("--op", op), ("--scale", scale), ("--backward", backward or None)):
            if given is not None:
                raise UsageError(f"{name} needs --shape: a suite has its own cases")
        return None
    op = op or DEFAULT_OPERATION
    choose("--op", op, OPERATIONS)
    if scale is not None and op not in SCALED:
        raise UsageError(f"--scale needs --op {' or '.join(SCALED)}, not {op}")
    case = Case(*parse_shape(shape), op, scale or Case.scale, dtype, backward)
    if op in SCALED and (case.height % case.scale or case.width % case.scale):
        raise UsageError(
            f"--scale {case.scale}: {describe_size((case.height, case.width))} is not a multiple of it; "
            "give another --scale or --shape"
        )
    return case


def parse_shape(text: str) -> tuple[int, int, int, int, int]:
    """`BATCHxHEIGHTxWIDTHxCHANNELS[xWINDOW]` as numbers, the window 5 if it isn't given.

    Raises:
        UsageError: an invalid form, a zero, or an even window.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3,4}", text):
        raise UsageError(
            f"--shape {text}: expected BATCHxHEIGHTxWIDTHxCHANNELS, all above 0, or with xWINDOW: 64x224x224x3x5"
        )
    batch, height, width, channels, window = (*(int(n) for n in text.split("x")), DEFAULT_WINDOW)[:5]
    if window % 2 == 0:
        raise UsageError(f"--shape {text}: the window must be odd, not {window}")
    return batch, height, width, channels, window


def parse_baselines(text: str) -> tuple[str, ...]:
    """`all` (`BASELINES`), `none`, or comma-separated names, which may be `EXTRA_BASELINES` too.

    Raises:
        UsageError: an unknown name.
    """
    if text in ("all", "none"):
        return BASELINES if text == "all" else ()
    names, known = tuple(text.split(",")), (*BASELINES, *EXTRA_BASELINES)
    for name in names:
        if name not in known:
            raise UsageError(f"--baselines {text}: unknown name {name!r}; choose all, none, or from {', '.join(known)}")
    return names
