from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from featup_kernels import adaptive_conv
from featup_kernels import cases as shared
from featup_kernels.cases import cases_of
from featup_kernels.operation import Case
from featup_kernels.registry import OPERATIONS

from featup_cli.benchmarking import check, kernels
from featup_cli.benchmarking.attention import flex_filter, window_blocks
from featup_cli.benchmarking.check import WrongResultError, check_result
from featup_cli.benchmarking.kernels import Sizes, make_baseline, measure_case, resolve_backend
from featup_cli.benchmarking.settings import Settings
from featup_cli.core.errors import UsageError

CPU = torch.device("cpu")
CASES = [Case(2, 8, 12 if record.scaled else 6, 3, 3, name, 4) for name, record in OPERATIONS.items()]
QUICK = Settings(backend="reference", repeat=2, budget_s=0.05, baselines=("loop", "bilinear"))


def inputs_of(case: Case) -> tuple[torch.Tensor, ...]:
    return cases_of(case.operation).inputs(case, torch.Generator().manual_seed(0))


def run(case: Case, settings: Settings = QUICK) -> dict[str, Any]:
    return measure_case(case, settings, CPU, 1e9, lambda text: None)


def change_run(monkeypatch: pytest.MonkeyPatch, operation: str, wrong: Callable[..., torch.Tensor]) -> None:
    module = importlib.import_module(f"{OPERATIONS[operation].package}.cases")
    monkeypatch.setattr(module, "CASES", replace(module.CASES, run=wrong))


@pytest.fixture(params=CASES, ids=lambda case: case.operation)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def few_checked_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that even the small cases are checked in part."""
    monkeypatch.setattr(shared, "CHECKED_VALUES", 9 * 6 * 4)


def test_the_tap_loop_computes_what_the_kernel_does(case: Case) -> None:
    cases, inputs = cases_of(case.operation), inputs_of(case)
    expected = cases.run(case, "reference", *inputs)
    assert expected.shape == cases.output(case)
    torch.testing.assert_close(cases.loop(case, *inputs), expected)


@pytest.mark.parametrize("name", ["reference", "loop", "bilinear"])
def test_every_baseline_gives_an_output_of_the_same_shape(case: Case, name: str) -> None:
    contestant = make_baseline(name, case, inputs_of(case))
    assert contestant.function(*contestant.inputs).shape == cases_of(case.operation).output(case)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes_are_those_of_the_tensors(case: Case, dtype: str) -> None:
    case = replace(case, dtype=dtype)
    inputs = inputs_of(case)
    output = cases_of(case.operation).run(case, "reference", *inputs)
    sizes = Sizes(case)
    assert sizes.inputs == sum(x.nbytes for x in inputs if x.ndim)
    assert sizes.output == output.nbytes
    assert sizes.moved == sizes.inputs + sizes.output
    extra = sizes.output if case.operation == "range_taps" else 0
    assert Sizes(replace(case, backward=True)).moved == 2 * sizes.inputs + sizes.output + extra


@pytest.mark.parametrize("backward", [False, True])
def test_a_right_result_passes_whole_and_in_parts(case: Case, backward: bool, few_checked_values: None) -> None:
    case = replace(case, backward=backward)
    found = check_result(case, "reference", inputs_of(case))
    assert len(found["parts"]) == 2
    assert "batch elements 1-1 of 2" in found["parts"][1]
    gradients = {f"d_{name}" for name in cases_of(case.operation).shapes(case)} if backward else set()
    assert set(found["largest_errors"]) == {"output"} | gradients
    assert max(found["largest_errors"].values()) < 1e-5


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_a_wrong_kernel_is_caught_before_anything_is_timed(
    case: Case, backward: bool, partial: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if partial:
        request.getfixturevalue("few_checked_values")
    right = cases_of(case.operation).run

    def wrong(case: Case, backend: str, *inputs: torch.Tensor) -> torch.Tensor:
        out = right(case, backend, *inputs)
        # Only float32, so not the reference: the very last value is lost, and with it its gradients.
        return (
            out * (torch.arange(out.numel()) < out.numel() - 1).view(out.shape) if out.dtype == torch.float32 else out
        )

    change_run(monkeypatch, case.operation, wrong)
    monkeypatch.setattr(kernels, "time_calls", lambda *a, **k: pytest.fail("timed a wrong kernel"))
    with pytest.raises(WrongResultError, match=f"{case.operation}.* is wrong at {case.shape}"):
        run(replace(case, backward=backward))


def test_a_wrong_gradient_is_caught_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return 2 * grads[0]

    right = cases_of("adaptive_conv").run

    def wrong(case: Case, backend: str, source: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
        return right(case, backend, source, Doubled.apply(taps) if taps.dtype == torch.float32 else taps)

    change_run(monkeypatch, "adaptive_conv", wrong)
    with pytest.raises(WrongResultError, match="d_taps is off"):
        check_result(replace(CASES[0], backward=True), "reference", inputs_of(CASES[0]))


def test_nan_is_no_right_result() -> None:
    error = check.relative_error(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0], dtype=torch.float64), 0)
    assert not error <= 1e9


@pytest.mark.parametrize("backward", [False, True])
def test_a_case_is_measured_beside_its_baselines_and_the_floor(case: Case, backward: bool) -> None:
    row = run(replace(case, backward=backward))
    assert (row["operation"], row["shape"], row["backend"]) == (case.operation, case.shape, "reference")
    assert row["direction"] == ("backward" if backward else "forward")
    assert row["check"]["parts"] == ["whole"]
    assert row["time_q1_ms"] <= row["time_ms"] <= row["time_q3_ms"]
    assert 1 <= row["repeats"] <= 2
    assert row["copies"] > 1
    assert row["floor_ms"] == pytest.approx(Sizes(replace(case, backward=backward)).moved / 1e9 * 1e3)
    assert row["floor_share"] == pytest.approx(row["floor_ms"] / row["time_ms"])
    assert {"peak_above_inputs_mib", "peak_absolute_mib", "scratch_mib"} <= set(row)
    assert set(row["baselines"]) == {"loop", "bilinear"}
    for figures in row["baselines"].values():
        assert figures["ratio"] == pytest.approx(figures["time_ms"] / row["time_ms"])


def test_gradients_are_timed_alone_on_graphs_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    function = cases_of("adaptive_conv").run

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append("forward")
        return function(*arguments)

    case = replace(CASES[0], backward=True)
    leaves = tuple(x.requires_grad_() for x in inputs_of(case))
    d_out = torch.ones(cases_of("adaptive_conv").output(case))
    call = kernels.rotating_call(lambda *x: counted(case, "reference", *x), leaves, d_out, 3, True)
    built = len(calls)
    first, again = call(0), call(3)
    assert (built, len(calls)) == (3, 3)
    assert [g.shape for g in first] == [x.shape for x in leaves]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_inputs_rotate() -> None:
    seen: list[int] = []
    leaves = (torch.zeros(4),)

    def remember(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.data_ptr())
        return x

    call = kernels.rotating_call(remember, leaves, torch.zeros(()), 3, False)
    for i in range(6):
        call(i)
    assert len(set(seen)) == 3
    assert seen[:3] == seen[3:]


def test_a_case_that_does_not_fit_is_skipped_with_the_reason() -> None:
    row = run(Case(10**6, 1000, 1000, 64, 5, "adaptive_conv"))
    assert "GiB are free" in row["skipped"]
    assert "time_ms" not in row


def test_a_baseline_that_does_not_fit_is_skipped_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fits(needed: float, device: torch.device) -> str | None:
        return "too large" if needed > 5 * Sizes(CASES[0]).unfolded else None

    original: Callable[..., Any] = kernels.make_baseline

    def make(name: str, *rest: Any) -> Any:
        made = original(name, *rest)
        return replace(made, needed_bytes=10**12) if name == "loop" else made

    monkeypatch.setattr(kernels, "why_it_does_not_fit", fits)
    monkeypatch.setattr(kernels, "make_baseline", make)
    row = run(CASES[0])
    assert row["baselines"]["loop"] == {"skipped": "too large"}
    assert row["baselines"]["bilinear"]["time_ms"] > 0


def test_a_baseline_that_fails_is_skipped_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: Any, **options: Any) -> Any:
        def fail(*x: Any) -> Any:
            raise RuntimeError("no C++ compiler was found\nmore lines")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    row = run(CASES[0], replace(QUICK, baselines=("compile", "loop")))
    assert row["baselines"]["compile"] == {"skipped": "RuntimeError: no C++ compiler was found"}
    assert row["baselines"]["loop"]["ratio"] > 0


def test_a_backend_that_can_not_run_says_why() -> None:
    with pytest.raises(UsageError, match=r"--backend triton: adaptive_conv: .*available: "):
        run(CASES[0], replace(QUICK, backend="triton"))


@pytest.mark.parametrize("shape", [(2, 5, 7, 3, 3), (1, 20, 30, 17, 5), (1, 3, 200, 1, 3)], ids=str)
def test_flex_attention_filters_as_the_kernel_does(shape: tuple[int, int, int, int, int]) -> None:
    case = Case(*shape, "adaptive_conv")
    source, taps = cases_of("adaptive_conv").inputs(case, torch.Generator().manual_seed(0))
    taps = taps.softmax(1)
    expected = adaptive_conv(source, taps, backend="reference")
    torch.testing.assert_close(flex_filter(case, CPU)(source, taps), expected, rtol=1e-4, atol=1e-5)


def test_windows_reach_no_block_that_is_left_out() -> None:
    """Every pair of pixels of one window, found by loops."""
    case = Case(1, 9, 40, 1, 5, "adaptive_conv")
    counts, blocks = window_blocks(case)
    for y, x, dy, dx in itertools.product(range(9), range(40), range(5), range(5)):
        query, key = y * 40 + x, (y + dy) * 44 + x + dx
        row = query // 128
        assert key // 128 in blocks[row, : counts[row]].tolist()


@pytest.mark.parametrize("backward", [False, True])
def test_extra_baselines_run_when_they_are_named(backward: bool) -> None:
    row = run(replace(CASES[0], backward=backward), replace(QUICK, baselines=("torchscript", "flex")))
    assert row["baselines"]["torchscript"]["time_ms"] > 0
    flex = row["baselines"]["flex"]
    assert flex == {"skipped": "UsageError: FlexAttention is measured forward only"} if backward else flex["ratio"] > 0


def test_gradients_of_resampled_conv_are_those_of_the_reference_alone() -> None:
    case = replace(CASES[-1], backward=True)
    assert resolve_backend(case, "reference", CPU) == "reference"
    assert resolve_backend(CASES[-1], "cpu", CPU) == "cpu"
    with pytest.raises(UsageError, match="gradients only with the backend reference"):
        resolve_backend(case, "cpu", CPU)
