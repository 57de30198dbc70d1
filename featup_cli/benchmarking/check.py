"""Check results against the reference in float64, before anything is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from featup_kernels.cases import Cases, Part, cases_of
from featup_kernels.operation import Case
from torch import Tensor

from featup_cli.core.errors import FeatUpError

# Largest error as a share of the largest value: float32 sums of a few thousand terms, and one rounding to a half type.
TOLERANCES = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}


class WrongResultError(FeatUpError):
    """A kernel's result differs from the reference, so its time is meaningless."""


def gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], d_out: Tensor) -> dict[str, Any]:
    """Output of function(*inputs) and the gradients for all inputs."""
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    out = function(*leaves)
    return {"output": out.detach(), "gradients": torch.autograd.grad(out, leaves, d_out)}


def relative_error(found: Tensor, expected: Tensor, terms: int) -> float:
    """Largest error as a share of the largest expected value.

    A gradient for a scalar is a sum of `terms` terms of random sign, which may cancel: it is judged against the square
    root of their number.
    """
    scale = expected.abs().max().item() if expected.ndim else max(expected.abs().item(), terms**0.5)
    error = (found.to(expected.dtype) - expected).abs().max().item()
    return error / scale if scale else error


def _compare(case: Case, cases: Cases, backend: str, inputs: tuple[Tensor, ...], part: Part) -> dict[str, float]:
    """Relative error of the output and, for a backward case, of every gradient, by name."""
    exact = tuple(x[s].double() for x, s in zip(inputs, part.inputs, strict=True))
    if not case.backward:
        with torch.no_grad():
            found = cases.run(case, backend, *inputs)[part.output]
            return {"output": relative_error(found, cases.run(case, "reference", *exact), 0)}
    with torch.no_grad():
        d_out = torch.zeros_like(cases.run(case, backend, *inputs))
    # Zero outside the part, so that nothing outside adds to the part's gradients.
    d_part = torch.randn(d_out[part.output].shape, generator=torch.Generator().manual_seed(1)).to(d_out)
    d_out[part.output] = d_part
    ours = gradients(lambda *x: cases.run(case, backend, *x), inputs, d_out)
    reference = gradients(lambda *x: cases.run(case, "reference", *x), exact, d_part.double())
    errors = {"output": relative_error(ours["output"][part.output], reference["output"], 0)}
    for name, mine, expected, where in zip(
        cases.shapes(case), ours["gradients"], reference["gradients"], part.inputs, strict=True
    ):
        errors[f"d_{name}"] = relative_error(mine[where], expected, d_part.numel())
    return errors


def check_result(case: Case, backend: str, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """Run the case and compare it (if it is large, both ends) with the reference in float64.

    Returns:
        The compared parts and the largest errors, as JSON values.
    Raises:
        WrongResultError: an error above the tolerance, or a value that is not finite.
    """
    tolerance = TOLERANCES[case.dtype]
    cases = cases_of(case.operation)
    parts = cases.parts(case)
    worst: dict[str, float] = {}
    for part in parts:
        for name, error in _compare(case, cases, backend, inputs, part).items():
            if not error <= tolerance:  # so that NaN fails
                raise WrongResultError(
                    f"{case.operation} ({backend}) is wrong at {case.shape}, {case.dtype}, {case.direction}: {name} is "
                    f"off by {error:.2g} of its largest value; limit {tolerance:.0e} ({part.about}); nothing timed"
                )
            worst[name] = max(error, worst.get(name, 0.0))
    return {
        "against": "reference in float64", "parts": [part.about for part in parts], "tolerance": tolerance,
        "largest_errors": worst,
    }  # fmt: skip
