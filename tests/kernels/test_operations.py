"""What holds for every operation and backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from featup_kernels.cases import cases_of
from featup_kernels.registry import OPERATIONS
from torch import Tensor

from tests.kernels.cases import (
    DTYPES,
    LARGER,
    LAYOUTS,
    SHAPES,
    SMALL,
    Case,
    apply,
    assert_matches_reference,
    case_id,
    has_gradients,
    make_inputs,
)

OPERATORS = [
    "adaptive_conv", "adaptive_conv_d_source", "adaptive_conv_d_taps",
    "neighbor_mix", "neighbor_mix_d_source", "neighbor_mix_d_taps",
    "range_taps", "range_taps_backward",
]  # fmt: skip


def function_of(
    case: Case, backend: str, inputs: dict[str, Tensor]
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The operation as a function of tensors alone, and those tensors."""
    run, values = cases_of(case.operation).run, tuple(inputs.values())
    if not has_gradients(case, backend):
        values = tuple(value.detach() for value in values)
    return lambda *values: run(case, backend, *values), values


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [Case(name, *shape) for name in OPERATIONS for shape in SHAPES], ids=case_id)
def test_result_and_every_gradient_match_the_reference(
    case: Case, dtype: torch.dtype, backend: str, device: str
) -> None:
    assert_matches_reference(case, backend, dtype, device)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", LARGER, ids=case_id)
def test_any_memory_layout(case: Case, layout: str, backend: str, device: str) -> None:
    assert_matches_reference(case, backend, device=device, layout=layout)


@pytest.mark.parametrize("case", SMALL, ids=case_id)
def test_gradcheck_with_borders(case: Case, backend: str, device: str) -> None:
    if not has_gradients(case, backend):
        pytest.skip("this backend has no gradients")
    function, values = function_of(case, backend, make_inputs(case, torch.float64, device))
    assert torch.autograd.gradcheck(function, values)


@pytest.mark.parametrize("case", SMALL, ids=case_id)
def test_gradgradcheck_with_borders(case: Case, backend: str, device: str) -> None:
    if backend != "reference" and case.operation in ("range_taps", "resampled_conv"):
        pytest.skip("the fast backends differentiate once, or not at all")
    function, values = function_of(case, backend, make_inputs(case, torch.float64, device))
    assert torch.autograd.gradgradcheck(function, values)


def test_a_second_derivative_of_fast_range_taps_is_refused(device: str) -> None:
    case = Case("range_taps", 1, 2, 4, 5, 3)
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


@pytest.mark.parametrize("case", SMALL, ids=case_id)
def test_compiles_to_one_graph(case: Case, backend: str, device: str) -> None:
    torch._dynamo.reset()  # or shapes that differ from the last case's would be taken as variable
    inputs = make_inputs(case, device=device)
    function, values = function_of(case, backend, inputs)
    plain = function(*values)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(*values)
    torch.testing.assert_close(compiled, plain)
    if not has_gradients(case, backend):
        return
    d_out = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, values, d_out)
    for actual, gradient in zip(torch.autograd.grad(compiled, values, d_out), expected, strict=True):
        torch.testing.assert_close(actual, gradient)


@pytest.mark.parametrize("case", SMALL, ids=case_id)
def test_autocast(case: Case, backend: str, device: str) -> None:
    inputs = make_inputs(case, device=device)
    with torch.autocast(device, torch.bfloat16):
        out = apply(case, inputs, backend)
    # Weights are normalised in float32, as PyTorch's own softmax; `resampled_conv` takes what it is given.
    assert out.dtype == (torch.float32 if case.operation in ("range_taps", "resampled_conv") else torch.bfloat16)
    if not has_gradients(case, backend):
        return
    out.float().sum().backward()
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in inputs.values())


@pytest.mark.parametrize("case", SMALL, ids=case_id)
@pytest.mark.parametrize("empty", ["batch", "channels", "height"])
def test_empty_inputs_give_empty_results(case: Case, empty: str, backend: str, device: str) -> None:
    if case.operation == "range_taps" and empty != "batch":
        pytest.skip("keys have at least one channel and one pixel")
    if case.operation == "resampled_conv" and empty == "height":
        pytest.skip("an axis has at least one place")
    sizes = {"batch": case.batch, "channels": case.channels, "height": case.height, "width": case.width, empty: 0}
    case = Case(case.operation, **sizes, k=case.window, lr_size=case.lr_size)
    inputs = make_inputs(case, device=device)
    out = apply(case, inputs, backend)
    assert out.shape == cases_of(case.operation).output(case)
    if not has_gradients(case, backend):
        return
    out.sum().backward()
    assert all(torch.count_nonzero(value.grad) == 0 for value in inputs.values() if value.grad is not None)


@pytest.mark.parametrize("case", [case for case in SMALL if case.operation != "range_taps"], ids=case_id)
def test_linear_in_each_argument(case: Case, backend: str, device: str) -> None:
    first, second = make_inputs(case, torch.float64, device), make_inputs(case, torch.float64, device)
    for argument in first:
        mixed = {**first, argument: 2 * first[argument] - 3 * second[argument]}
        other = {**first, argument: second[argument]}
        expected = 2 * apply(case, first, backend) - 3 * apply(case, other, backend)
        torch.testing.assert_close(apply(case, mixed, backend), expected)


@pytest.mark.parametrize("case", LARGER, ids=case_id)
def test_nan_reaches_what_depends_on_it_and_nothing_else(case: Case, backend: str, device: str) -> None:
    if case.operation == "resampled_conv" and backend == "triton":
        pytest.skip("reads cells whose weight is 0 too")
    inputs = {key: value.detach() for key, value in make_inputs(case, device=device).items()}
    source = next(iter(inputs.values()))
    source[0, 0, source.shape[2] // 2, source.shape[3] // 2] = float("nan")
    exact = apply(case, {key: value.cpu().double() for key, value in inputs.items()}, "reference")
    assert torch.equal(apply(case, inputs, backend).cpu().isnan(), exact.isnan())
