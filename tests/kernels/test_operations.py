"""What holds for every operation and backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels.cases import (
    ADAPTIVE_CONV,
    DTYPES,
    LAYOUTS,
    NEIGHBOR_MIX,
    RANGE_TAPS,
    Case,
    apply,
    assert_matches_reference,
    make_inputs,
)

ALL = [*ADAPTIVE_CONV, *NEIGHBOR_MIX, *RANGE_TAPS]
SMALL = [
    Case("adaptive_conv", 1, 2, 4, 5, 3),
    Case("neighbor_mix", 1, 2, 4, 5, 3, (2, 3)),
    Case("range_taps", 1, 2, 4, 5, 3),
]
OPERATORS = [
    "adaptive_conv", "adaptive_conv_d_source", "adaptive_conv_d_taps",
    "neighbor_mix", "neighbor_mix_d_source", "neighbor_mix_d_taps",
    "range_taps", "range_taps_backward",
]  # fmt: skip


def name(case: Case) -> str:
    return f"{case.operation}-{case}"


def function_of(
    case: Case, backend: str, inputs: dict[str, Tensor]
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The operation as a function of tensors alone, and those tensors."""
    return lambda *values: apply(case, dict(zip(inputs, values, strict=True)), backend), tuple(inputs.values())


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ALL, ids=name)
def test_result_and_every_gradient_match_the_reference(
    case: Case, dtype: torch.dtype, backend: str, device: str
) -> None:
    assert_matches_reference(case, backend, dtype, device)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [ADAPTIVE_CONV[2], NEIGHBOR_MIX[0], RANGE_TAPS[2]], ids=name)
def test_any_memory_layout(case: Case, layout: str, backend: str, device: str) -> None:
    assert_matches_reference(case, backend, device=device, layout=layout)


@pytest.mark.parametrize("case", SMALL, ids=name)
def test_gradcheck_with_borders(case: Case, backend: str, device: str) -> None:
    function, values = function_of(case, backend, make_inputs(case, torch.float64, device))
    assert torch.autograd.gradcheck(function, values)


@pytest.mark.parametrize("case", SMALL, ids=name)
def test_gradgradcheck_with_borders(case: Case, backend: str, device: str) -> None:
    if case.operation == "range_taps" and backend != "reference":
        pytest.skip("the fast backends of range_taps differentiate once")
    function, values = function_of(case, backend, make_inputs(case, torch.float64, device))
    assert torch.autograd.gradgradcheck(function, values)


def test_a_second_derivative_of_fast_range_taps_is_refused(device: str) -> None:
    case = SMALL[2]
    inputs = make_inputs(case, torch.float64, device)
    out = apply(case, inputs, "auto")
    (d_keys,) = torch.autograd.grad(out.square().sum(), inputs["keys"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"range_taps_backward"):
        d_keys.sum().backward()


@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck(operator: str, backend: str, device: str) -> None:
    if backend == "reference":
        pytest.skip("the reference is plain PyTorch, not a registered operator")
    source, keys = torch.randn(1, 2, 6, 7, device=device), torch.randn(1, 2, 6, 7, device=device)
    lr, taps = torch.randn(1, 2, 2, 3, device=device), torch.randn(1, 9, 4, 5, device=device)
    d_out, temperature = torch.randn(1, 2, 4, 5, device=device), torch.tensor(0.7, device=device)
    arguments = {
        "adaptive_conv": (source.requires_grad_(), taps.requires_grad_()),
        "adaptive_conv_d_source": (d_out, taps, 6, 7),
        "adaptive_conv_d_taps": (d_out, source, 3),
        "neighbor_mix": (lr.requires_grad_(), taps.requires_grad_()),
        "neighbor_mix_d_source": (d_out, taps, 2, 3),
        "neighbor_mix_d_taps": (d_out, lr, 3),
        "range_taps": (keys.clone().requires_grad_(), temperature, torch.randn(9, device=device)),
        "range_taps_backward": (taps.detach(), taps.detach().softmax(1), keys, temperature),
    }[operator]
    torch.library.opcheck(getattr(torch.ops.featup, operator).default, (*arguments, backend))


@pytest.mark.parametrize("case", SMALL, ids=name)
def test_compiles_to_one_graph(case: Case, backend: str, device: str) -> None:
    torch._dynamo.reset()  # or shapes that differ from the last case's would be taken as variable
    inputs = make_inputs(case, device=device)
    function, values = function_of(case, backend, inputs)
    plain = function(*values)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(*values)
    torch.testing.assert_close(compiled, plain)
    d_out = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, values, d_out)
    for actual, gradient in zip(torch.autograd.grad(compiled, values, d_out), expected, strict=True):
        torch.testing.assert_close(actual, gradient)


@pytest.mark.parametrize("case", SMALL, ids=name)
def test_autocast(case: Case, backend: str, device: str) -> None:
    inputs = make_inputs(case, device=device)
    with torch.autocast(device, torch.bfloat16):
        out = apply(case, inputs, backend)
    # Weights are normalised in float32, as PyTorch's own softmax.
    assert out.dtype == (torch.float32 if case.operation == "range_taps" else torch.bfloat16)
    out.float().sum().backward()
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in inputs.values())


@pytest.mark.parametrize("case", SMALL, ids=name)
@pytest.mark.parametrize("empty", ["batch", "channels", "height"])
def test_empty_inputs_give_empty_results(case: Case, empty: str, backend: str, device: str) -> None:
    if case.operation == "range_taps" and empty != "batch":
        pytest.skip("keys have at least one channel and one pixel")
    sizes = {"batch": case.batch, "channels": case.channels, "height": case.height, "width": case.width, empty: 0}
    case = Case(case.operation, **sizes, k=case.k, lr_size=case.lr_size)
    inputs = make_inputs(case, device=device)
    out = apply(case, inputs, backend)
    channels = case.k**2 if case.operation == "range_taps" else sizes["channels"]
    assert out.shape == (sizes["batch"], channels, sizes["height"], sizes["width"])
    out.sum().backward()
    assert all(torch.count_nonzero(value.grad) == 0 for value in inputs.values() if value.grad is not None)


@pytest.mark.parametrize("case", SMALL[:2], ids=name)
def test_linear_in_each_argument(case: Case, backend: str, device: str) -> None:
    first, second = make_inputs(case, torch.float64, device), make_inputs(case, torch.float64, device)
    for argument in first:
        mixed = {**first, argument: 2 * first[argument] - 3 * second[argument]}
        other = {**first, argument: second[argument]}
        expected = 2 * apply(case, first, backend) - 3 * apply(case, other, backend)
        torch.testing.assert_close(apply(case, mixed, backend), expected)


@pytest.mark.parametrize("case", [ADAPTIVE_CONV[2], NEIGHBOR_MIX[0], RANGE_TAPS[2]], ids=name)
def test_nan_reaches_what_depends_on_it_and_nothing_else(case: Case, backend: str, device: str) -> None:
    inputs = {key: value.detach() for key, value in make_inputs(case, device=device).items()}
    source = next(iter(inputs.values()))
    source[0, 0, source.shape[2] // 2, source.shape[3] // 2] = float("nan")
    exact = apply(case, {key: value.cpu().double() for key, value in inputs.items()}, "reference")
    assert torch.equal(apply(case, inputs, backend).cpu().isnan(), exact.isnan())
