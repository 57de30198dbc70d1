"""Shapes, inputs and the comparison with the float64 reference that the tests of every operation and backend share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from featup_kernels import adaptive_conv, neighbor_mix, range_taps
from torch import Tensor

from tests.tolerances import assert_close

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("transposed", "channels_last", "every_second", "broadcast")


@dataclass(frozen=True)
class Case:
    """An operation and the shape of its output; `channels` are those of the source or of the keys."""

    operation: str
    batch: int
    channels: int
    height: int
    width: int
    k: int
    lr_size: tuple[int, int] = (0, 0)  # of the source of neighbor_mix

    def __str__(self) -> str:
        text = f"B{self.batch}-C{self.channels}-H{self.height}-W{self.width}-k{self.k}"
        return f"{text}-from{self.lr_size[0]}x{self.lr_size[1]}" if self.lr_size != (0, 0) else text


ADAPTIVE_CONV = [
    Case("adaptive_conv", 2, 3, 8, 63, 7),
    Case("adaptive_conv", 1, 1, 5, 4, 3),
    Case("adaptive_conv", 2, 5, 9, 14, 5),
    Case("adaptive_conv", 1, 4, 1, 1, 1),
    Case("adaptive_conv", 3, 2, 17, 16, 1),
    Case("adaptive_conv", 1, 2, 2, 3, 7),  # smaller than the window
    Case("adaptive_conv", 1, 6, 2, 150, 3),  # wide
    Case("adaptive_conv", 1, 9, 70, 3, 3),  # tall
]
NEIGHBOR_MIX = [
    Case("neighbor_mix", 2, 3, 8, 63, 7, (3, 9)),
    Case("neighbor_mix", 1, 1, 5, 4, 3, (2, 2)),
    Case("neighbor_mix", 2, 5, 9, 14, 5, (9, 14)),  # same size
    Case("neighbor_mix", 1, 4, 1, 1, 1, (1, 1)),
    Case("neighbor_mix", 1, 2, 6, 150, 3, (4, 11)),  # the ratio is no integer
    Case("neighbor_mix", 1, 9, 70, 3, 3, (5, 1)),
    Case("neighbor_mix", 1, 2, 4, 3, 3, (9, 7)),  # downsampling
    Case("neighbor_mix", 1, 2, 3, 4, 7, (2, 1)),  # smaller than the window
]
RANGE_TAPS = [
    Case("range_taps", 2, 3, 8, 63, 7),
    Case("range_taps", 1, 1, 5, 4, 3),
    Case("range_taps", 2, 5, 9, 14, 5),
    Case("range_taps", 1, 4, 1, 1, 1),
    Case("range_taps", 1, 2, 2, 3, 7),  # smaller than the window
    Case("range_taps", 1, 6, 2, 150, 3),
    Case("range_taps", 1, 9, 70, 3, 3),
]


def make_inputs(case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    """Random leaves that want gradients, by argument name; scalars are float32 at least."""
    border = case.k - 1
    taps = (case.batch, case.k**2, case.height, case.width)
    shapes: dict[str, tuple[int, ...]]
    if case.operation == "adaptive_conv":
        shapes = {"source": (case.batch, case.channels, case.height + border, case.width + border), "taps": taps}
    elif case.operation == "neighbor_mix":
        shapes = {"lr_source": (case.batch, case.channels, *case.lr_size), "taps": taps}
    else:
        shapes = {"keys": (case.batch, case.channels, case.height + border, case.width + border)}
    inputs = {name: torch.randn(shape).to(device, dtype) for name, shape in shapes.items()}
    if case.operation == "range_taps":
        work = torch.promote_types(dtype, torch.float32)
        inputs["temperature"] = torch.tensor(0.7, device=device, dtype=work)
        inputs["spatial"] = torch.tensor(0.8, device=device, dtype=work)
    return {name: value.requires_grad_() for name, value in inputs.items()}


def apply(case: Case, inputs: dict[str, Tensor], backend: str) -> Tensor:
    """Call the operation of the case."""
    if case.operation == "adaptive_conv":
        return adaptive_conv(inputs["source"], inputs["taps"], backend=backend)
    if case.operation == "neighbor_mix":
        return neighbor_mix(inputs["lr_source"], inputs["taps"], backend=backend)
    return range_taps(inputs["keys"], case.k // 2, inputs["temperature"], inputs["spatial"], backend=backend)


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
    """Compare the result and the gradient of every input, by name, with the reference in float64."""
    inputs = make_inputs(case, dtype, device)
    if layout is not None:
        inputs = {name: with_layout(value.detach(), layout).requires_grad_() for name, value in inputs.items()}
    exact_inputs = {name: value.detach().cpu().double().requires_grad_() for name, value in inputs.items()}
    out = apply(case, inputs, backend)
    exact = apply(case, exact_inputs, "reference")
    assert out.dtype == dtype
    assert_close(out, exact, dtype, "out")
    d_out = torch.randn(exact.shape).to(dtype)
    gradients = torch.autograd.grad(out, list(inputs.values()), d_out.to(device))
    exact_gradients = torch.autograd.grad(exact, list(exact_inputs.values()), d_out.double())
    for name, gradient, exact_gradient in zip(inputs, gradients, exact_gradients, strict=True):
        assert gradient.dtype == inputs[name].dtype
        terms = exact.numel() if gradient.ndim == 0 else 1
        assert_close(gradient, exact_gradient, dtype, f"gradient of {name}", terms)
