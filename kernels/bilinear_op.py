"""Registers an operation that is linear in its source and linear in its taps.

Such an operation and its two gradients are closed under differentiation: the gradient of each is a call of the other
two. So three kernels a backend give derivatives of any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featup_kernels.registration import implementation, register
from torch import Tensor


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

    def forward_fake(source: Tensor, taps: Tensor, backend: str) -> Tensor:
        return source.new_empty(source.shape[0], source.shape[1], taps.shape[2], taps.shape[3])

    def d_source_fake(d_out: Tensor, taps: Tensor, height: int, width: int, backend: str) -> Tensor:
        return d_out.new_empty(d_out.shape[0], d_out.shape[1], height, width)

    def d_taps_fake(d_out: Tensor, source: Tensor, k: int, backend: str) -> Tensor:
        return d_out.new_empty(d_out.shape[0], k * k, d_out.shape[2], d_out.shape[3])

    def side(taps: Tensor) -> int:
        return round(taps.shape[1] ** 0.5)

    def save_two(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.backend = inputs[-1]

    def forward_backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        source, taps = ctx.saved_tensors
        wants_source, wants_taps = ctx.needs_input_grad[:2]
        return (
            d_source(d_out, taps, source.shape[2], source.shape[3], ctx.backend) if wants_source else None,
            d_taps(d_out, source, side(taps), ctx.backend) if wants_taps else None,
            None,
        )

    def d_source_backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        d_out, taps = ctx.saved_tensors
        wants_out, wants_taps = ctx.needs_input_grad[:2]
        return (
            forward(d, taps, ctx.backend) if wants_out else None,
            d_taps(d_out, d, side(taps), ctx.backend) if wants_taps else None,
            None, None, None,
        )  # fmt: skip

    def d_taps_backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        d_out, source = ctx.saved_tensors
        wants_out, wants_source = ctx.needs_input_grad[:2]
        return (
            forward(source, d, ctx.backend) if wants_out else None,
            d_source(d_out, d, source.shape[2], source.shape[3], ctx.backend) if wants_source else None,
            None, None,
        )  # fmt: skip

    forward = register(
        f"{operation}(Tensor source, Tensor taps, str backend) -> Tensor",
        forward_kernel, forward_fake, forward_backward, save_two,
    )  # fmt: skip
    d_source = register(
        f"{operation}_d_source(Tensor d_out, Tensor taps, SymInt height, SymInt width, str backend) -> Tensor",
        d_source_kernel, d_source_fake, d_source_backward, save_two,
    )  # fmt: skip
    d_taps = register(
        f"{operation}_d_taps(Tensor d_out, Tensor source, SymInt k, str backend) -> Tensor",
        d_taps_kernel, d_taps_fake, d_taps_backward, save_two,
    )  # fmt: skip
    return forward
