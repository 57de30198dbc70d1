"""Register an operation that is linear in its source and linear in its taps.

Such an operation and its two gradients are closed under differentiation: the gradient of each is a call of the other
two. So three kernels a backend give derivatives of any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featup_kernels.registration import implementation, register
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def register_bilinear(operation: str) -> Callable[[Tensor, Tensor, str], Tensor]:
    """Register featup::OPERATION(source, taps, backend) with its gradients and fake kernels.

    The module of each backend has `forward(source, taps)`, `d_source(d_out, taps, size)` with the (height, width) of
    the source, and `d_taps(d_out, source, k)`.
    """

    def forward_kernel(source: Tensor, taps: Tensor, backend: str) -> Tensor:
        return implementation(operation, backend).forward(source.contiguous(), taps.contiguous())

    def d_source_kernel(d_out: Tensor, taps: Tensor, height: int, width: int, backend: str) -> Tensor:
        return implementation(operation, backend).d_source(d_out.contiguous(), taps.contiguous(), (height, width))

    def d_taps_kernel(d_out: Tensor, source: Tensor, k: int, backend: str) -> Tensor:
        return implementation(operation, backend).d_taps(d_out.contiguous(), source.contiguous(), k)

    def of_source(source: Tensor, d_out: Tensor, taps: Tensor, backend: str) -> Tensor:
        return d_source(d_out, taps, source.shape[2], source.shape[3], backend)

    def of_taps(taps: Tensor, d_out: Tensor, source: Tensor, backend: str) -> Tensor:
        return d_taps(d_out, source, round(taps.shape[1] ** 0.5), backend)

    def forward_backward(ctx: Any, d: Tensor) -> Gradients:
        source, taps = ctx.saved_tensors
        return _wanted(ctx, (of_source, source, d, taps), (of_taps, taps, d, source), 1)

    def d_source_backward(ctx: Any, d: Tensor) -> Gradients:
        d_out, taps = ctx.saved_tensors
        return _wanted(ctx, (forward, d, taps), (of_taps, taps, d_out, d), 3)

    def d_taps_backward(ctx: Any, d: Tensor) -> Gradients:
        d_out, source = ctx.saved_tensors
        return _wanted(ctx, (forward, source, d), (of_source, source, d_out, d), 2)

    schema = f"{operation}(Tensor source, Tensor taps, str backend) -> Tensor"
    forward = register(schema, forward_kernel, _forward_fake, forward_backward, _save)
    schema = f"{operation}_d_source(Tensor d_out, Tensor taps, SymInt height, SymInt width, str backend) -> Tensor"
    d_source = register(schema, d_source_kernel, _d_source_fake, d_source_backward, _save)
    schema = f"{operation}_d_taps(Tensor d_out, Tensor source, SymInt k, str backend) -> Tensor"
    d_taps = register(schema, d_taps_kernel, _d_taps_fake, d_taps_backward, _save)
    return forward


def _forward_fake(source: Tensor, taps: Tensor, backend: str) -> Tensor:
    return source.new_empty(source.shape[0], source.shape[1], taps.shape[2], taps.shape[3])


def _d_source_fake(d_out: Tensor, taps: Tensor, height: int, width: int, backend: str) -> Tensor:
    return d_out.new_empty(d_out.shape[0], d_out.shape[1], height, width)


def _d_taps_fake(d_out: Tensor, source: Tensor, k: int, backend: str) -> Tensor:
    return d_out.new_empty(d_out.shape[0], k * k, d_out.shape[2], d_out.shape[3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.backend = inputs[-1]


def _wanted(ctx: Any, first: tuple[Any, ...], second: tuple[Any, ...], others: int) -> Gradients:
    """Calls (function, tensors) that make the gradients of both tensors, if wanted; None for the `others`."""
    calls = zip((first, second), ctx.needs_input_grad[:2], strict=True)
    return *(make(*x, ctx.backend) if wanted else None for (make, *x), wanted in calls), *(None,) * others
