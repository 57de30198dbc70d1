"""Launch configurations of the Triton kernels against each other: whether the one that is chosen is the fastest.

`configs.py` of each operation chooses by rules, and lists other sensible records. Nothing is tuned at run time: the
first call of every shape would time all candidates. What `tune` finds on a GPU goes into those rules, by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from featup_kernels.adaptive_conv import configs as adaptive_conv
from featup_kernels.dispatch import choose_backend
from featup_kernels.neighbor_mix import configs as neighbor_mix
from featup_kernels.range_taps import configs as range_taps
from featup_kernels.range_taps.reference import range_taps_reference, spatial_logits
from featup_kernels.registration import implementation
from featup_kernels.resampled_conv import configs as resampled_conv
from torch import Tensor

from featup_cli.benchmark.check import TOLERANCES, WrongResultError, relative_error
from featup_cli.benchmark.kernels import first_line
from featup_cli.benchmark.measure import copies_for, time_calls
from featup_cli.benchmark.operations import OPERATIONS, ResampledConv
from featup_cli.benchmark.settings import Case
from featup_cli.core.memory import MIB

Generator = torch.Generator


@dataclass(frozen=True)
class Kernel:
    """A function of an operation's Triton module that takes a configuration.

    Attributes:
        arguments: of a case, for a generator of random numbers on the device: all but the configuration.
        default: the record that is chosen for a case.
        others: records beside it, of that record and the case.
    """

    operation: str
    function: str
    arguments: Callable[[Case, Generator], tuple[Any, ...]]
    default: Callable[[Case], Any]
    others: Callable[[Any, Case], list[Any]]


def _low(case: Case) -> tuple[int, int]:
    return case.height // case.scale, case.width // case.scale


def _inputs(case: Case, generator: Generator) -> tuple[Tensor, ...]:
    return OPERATIONS[case.operation].make_inputs(case, generator)


def _d_out(case: Case, generator: Generator) -> Tensor:
    shape = OPERATIONS[case.operation].output_shape(case)
    return torch.randn(shape, dtype=getattr(torch, case.dtype), device=generator.device, generator=generator)


def _d_source_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    source, taps = _inputs(case, generator)
    return _d_out(case, generator), taps, tuple(source.shape[2:])


def _d_taps_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    return _d_out(case, generator), _inputs(case, generator)[0], case.window


def _range_taps_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    keys, temperature, spatial = _inputs(case, generator)
    return keys, temperature, spatial_logits(case.window // 2, spatial)


def _range_taps_backward_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    keys, temperature, logits = _range_taps_arguments(case, generator)
    return _d_out(case, generator), range_taps_reference(keys, temperature, logits), keys, temperature


def _resampled_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    source, taps = _inputs(case, generator)
    return source, taps, *(tensor for axis in ResampledConv().axes(case, source) for tensor in axis)


def _resampled_default(case: Case) -> Any:
    itemsize = max(4, getattr(torch, case.dtype).itemsize)
    size = (case.height, case.width)
    return resampled_conv.forward_config(case.batch, case.channels, _low(case), size, case.window, (4, 4), itemsize)


_ALL = (
    Kernel(
        "adaptive_conv", "forward", _inputs,
        lambda c: adaptive_conv.filter_config(c.channels, c.height, c.window),
        lambda config, c: adaptive_conv.filter_candidates(config),
    ),
    Kernel(
        "adaptive_conv", "d_source", _d_source_arguments,
        lambda c: adaptive_conv.filter_config(c.channels, c.height + c.window - 1, c.window),
        lambda config, c: adaptive_conv.filter_candidates(config),
    ),
    Kernel(
        "adaptive_conv", "d_taps", _d_taps_arguments,
        lambda c: adaptive_conv.taps_config(c.batch, c.channels, c.height, c.width, c.window),
        lambda config, c: adaptive_conv.taps_candidates(config),
    ),
    Kernel(
        "neighbor_mix", "forward", _inputs,
        lambda c: neighbor_mix.forward_config(c.channels, c.height, _low(c)[0], c.window),
        lambda config, c: neighbor_mix.forward_candidates(config, c.height, _low(c)[0]),
    ),
    Kernel(
        "neighbor_mix", "d_source", _d_source_arguments,
        lambda c: neighbor_mix.source_config(c.channels, _low(c)[1], c.width, c.window),
        lambda config, c: neighbor_mix.source_candidates(config),
    ),
    Kernel(
        "neighbor_mix", "d_taps", _d_taps_arguments,
        lambda c: neighbor_mix.taps_config(c.channels, c.height, _low(c)[0], c.window),
        lambda config, c: neighbor_mix.taps_candidates(config, c.height, _low(c)[0]),
    ),
    Kernel(
        "range_taps", "forward", _range_taps_arguments,
        lambda c: range_taps.forward_config(c.window),
        lambda config, c: range_taps.forward_candidates(config),
    ),
    Kernel(
        "range_taps", "backward", _range_taps_backward_arguments,
        lambda c: range_taps.backward_config(c.channels),
        lambda config, c: range_taps.backward_candidates(config),
    ),
    Kernel(
        "resampled_conv", "forward", _resampled_arguments, _resampled_default,
        lambda config, c: resampled_conv.forward_candidates(config, _low(c)),
    ),
)  # fmt: skip
KERNELS: dict[str, Kernel] = {f"{kernel.operation}.{kernel.function}": kernel for kernel in _ALL}


def candidates(name: str, case: Case) -> list[Any]:
    """The record that is chosen for a case, and those beside it."""
    kernel = KERNELS[name]
    default = kernel.default(case)
    return [default, *kernel.others(default, case)]


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
            "kernel": name, "shape": case.shape, "dtype": case.dtype, "config": config._asdict(), "chosen": index == 0
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
