"""Shapes, inputs and the comparison with the float64 reference that the tests of every operation and backend share."""

from __future__ import annotations

import torch
from featup_kernels import operation
from featup_kernels.cases import cases_of
from featup_kernels.registry import OPERATIONS
from torch import Tensor

from tests.tolerances import assert_close

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("transposed", "channels_last", "every_second", "broadcast")
# Batch, channels (of the source or of the keys), height, width, window, and the size of a scaled operation's source.
SHAPES = (
    (2, 3, 8, 63, 7, (3, 9)),
    (1, 1, 5, 4, 3, (2, 2)),
    (2, 5, 9, 14, 5, (9, 14)),  # same size
    (1, 4, 1, 1, 1, (1, 1)),
    (3, 2, 17, 16, 1, (5, 4)),
    (1, 2, 3, 4, 7, (2, 1)),  # smaller than the window
    (1, 6, 6, 150, 3, (4, 11)),  # wide; the ratio is no integer
    (1, 9, 70, 3, 3, (5, 1)),  # tall
    (1, 2, 4, 3, 3, (9, 7)),  # downsampling
)


class Case(operation.Case):
    """An operation and the shape of its output, from a source of any size."""

    def __init__(
        self, operation: str, batch: int, channels: int, height: int, width: int, k: int,
        lr_size: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        super().__init__(batch, height, width, channels, k, operation)
        object.__setattr__(self, "_lr_size", lr_size)

    @property
    def lr_size(self) -> tuple[int, int]:
        return self._lr_size

    def __str__(self) -> str:
        text = f"B{self.batch}-C{self.channels}-H{self.height}-W{self.width}-k{self.window}"
        return f"{text}-from{self.lr_size[0]}x{self.lr_size[1]}" if OPERATIONS[self.operation].scaled else text


SMALL = [Case(name, 1, 2, 4, 5, 3, (2, 3)) for name in OPERATIONS]
LARGER = [Case(name, *SHAPES[0]) for name in OPERATIONS]


def case_id(case: Case) -> str:
    """What tests are called."""
    return f"{case.operation}-{case}"


def has_gradients(case: Case, backend: str) -> bool:
    """Whether this backend differentiates the operation."""
    return backend in OPERATIONS[case.operation].gradients


def make_inputs(case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    """Random leaves that want gradients, by argument name; scalars are float32 at least."""
    inputs = {}
    for index, (name, shape) in enumerate(cases_of(case.operation).shapes(case).items()):
        value = torch.randn(shape) if shape else torch.tensor(0.6 + 0.1 * index)
        kind = dtype if shape else torch.promote_types(dtype, torch.float32)
        inputs[name] = value.to(device, kind).requires_grad_()
    return inputs


def apply(case: Case, inputs: dict[str, Tensor], backend: str) -> Tensor:
    """Call the operation of the case; without gradients if the backend has none."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and (backend == "auto" or has_gradients(case, backend))):
        return cases_of(case.operation).run(case, backend, *inputs.values())


def with_layout(tensor: Tensor, layout: str) -> Tensor:
    """The same shape in memory that is not contiguous; the same values too, except where they are broadcast."""
    if tensor.ndim != 4:
        return tensor
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "every_second":
        return tensor.repeat_interleave(2, 3)[..., ::2]
    return tensor[:1, :, :1].expand(tensor.shape)


def assert_matches_reference(
    case: Case, backend: str, dtype: torch.dtype = torch.float32, device: str = "cpu", layout: str | None = None
) -> None:
    """Compare the result, and the gradient of every input if the backend has any, with the reference in float64."""
    inputs = make_inputs(case, dtype, device)
    if layout is not None:
        inputs = {name: with_layout(value.detach(), layout).requires_grad_() for name, value in inputs.items()}
    exact_inputs = {name: value.detach().cpu().double().requires_grad_() for name, value in inputs.items()}
    out = apply(case, inputs, backend)
    exact = apply(case, exact_inputs, "reference")
    assert out.dtype == dtype
    assert_close(out, exact, dtype, "out")
    if not has_gradients(case, backend):
        return
    d_out = torch.randn(exact.shape).to(dtype)
    gradients = torch.autograd.grad(out, list(inputs.values()), d_out.to(device))
    exact_gradients = torch.autograd.grad(exact, list(exact_inputs.values()), d_out.double())
    for name, gradient, exact_gradient in zip(inputs, gradients, exact_gradients, strict=True):
        assert gradient.dtype == inputs[name].dtype
        terms = exact.numel() if gradient.ndim == 0 else 1
        assert_close(gradient, exact_gradient, dtype, f"gradient of {name}", terms)
