"""Launch configurations of the Triton kernels against each other: whether the one that is chosen is the fastest.

`configs.py` of each operation chooses by rules, and `tuned/` lists other sensible records. What `tune` finds on a GPU
goes into those rules, by hand.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from featup_kernels.dispatch import choose_backend
from featup_kernels.operation import Case
from featup_kernels.registration import implementation
from featup_kernels.registry import OPERATIONS
from torch import Tensor

from benchmarks.gpu.tuned.kernel import Kernel, variants
from featup_cli.benchmarking.check import TOLERANCES, WrongResultError, relative_error
from featup_cli.benchmarking.kernels import first_line
from featup_cli.benchmarking.measure import copies_for, time_calls
from featup_cli.core.memory import MIB

KERNELS: dict[str, Kernel] = {
    f"{kernel.operation}.{kernel.function}": kernel
    for name in OPERATIONS
    if importlib.util.find_spec(f"benchmarks.gpu.tuned.{name}")
    for kernel in importlib.import_module(f"benchmarks.gpu.tuned.{name}").KERNELS
}


def candidates(name: str, case: Case) -> list[Any]:
    """The record that is chosen for a case, and those beside it."""
    kernel = KERNELS[name]
    default = kernel.default(case)
    return [default, *variants(default, kernel.others(default, case))]


def run(name: str, arguments: tuple[Any, ...], config: Any) -> tuple[Tensor, ...]:
    """The results of a kernel with a configuration; None takes the one that is chosen."""
    kernel = KERNELS[name]
    out = getattr(implementation(kernel.operation, "triton"), kernel.function)(*arguments, config=config)
    return out if isinstance(out, tuple) else (out,)


def tune(
    name: str, case: Case, device: torch.device, *, repeat: int = 20, budget_s: float = 2.0, seed: int = 0
) -> list[dict[str, Any]]:
    """Time every candidate of a kernel, after a comparison of its result with the default's.

    Args:
        name: one of `KERNELS`.
        case: of the kernel's operation; `backward` and the baselines play no part.
        device: where; timings are CUDA events there, a clock elsewhere (Triton's interpreter, for tests).
        repeat: timed calls of each.
        budget_s: seconds for each.
        seed: of the random inputs.
    Returns:
        A row of JSON values for each: `config`, `chosen` (by the rules), `time_ms` and its quartiles, `moved_mib`
        (inputs read once and results written once), `gb_per_s`, `largest_difference`; or `skipped` with the reason if
        the device can't run it.
    Raises:
        BackendError: Triton can't run there.
        WrongResultError: a candidate's result differs from the default's.
    """
    choose_backend(case.operation, "triton", device.type, getattr(torch, case.dtype))
    arguments = KERNELS[name].arguments(case, torch.Generator(device).manual_seed(seed))
    expected = run(name, arguments, None)
    moved = sum(x.nbytes for x in (*arguments, *expected) if isinstance(x, Tensor))
    sets = [arguments]
    for _ in range(copies_for(moved, moved, device) - 1):
        sets.append(tuple(x.clone() if isinstance(x, Tensor) else x for x in arguments))
    rows = []
    for index, config in enumerate(candidates(name, case)):
        row: dict[str, Any] = {
            "kernel": name, "shape": case.shape, "dtype": case.dtype, "config": asdict(config), "chosen": index == 0
        }  # fmt: skip
        try:
            found = run(name, arguments, config)
        except Exception as error:  # too many registers or threads for this device: the others go on
            rows.append(row | {"skipped": first_line(error)})
            continue
        difference = max(relative_error(f, e, 0) for f, e in zip(found, expected, strict=True))
        if not difference <= TOLERANCES[case.dtype]:  # so that NaN fails
            raise WrongResultError(f"{name} {case.shape}: {config} is off by {difference:.2g} of the largest value")
        timing = time_calls(_rotating(name, sets, config), device, repeat=repeat, budget_s=budget_s)
        rows.append(
            row | timing.record() | {
                "moved_mib": moved / MIB, "gb_per_s": 1e-6 * moved / timing.median_ms,
                "largest_difference": difference, "copies": len(sets),
            }
        )  # fmt: skip
    return rows


def _rotating(name: str, sets: list[tuple[Any, ...]], config: Any) -> Callable[[int], Any]:
    return lambda i: run(name, sets[i % len(sets)], config)
