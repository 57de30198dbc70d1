"""One case of one kernel: check it, then compare its time and memory with baselines and the memory floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch._functorch.config as functorch_config
import torch.nn.functional as F
from featup_kernels.cases import cases_of
from featup_kernels.dispatch import BackendError, choose_backend
from featup_kernels.operation import Case
from featup_kernels.registry import OPERATIONS
from torch import Tensor

from featup_cli.benchmarking.attention import flex_filter
from featup_cli.benchmarking.check import check_result
from featup_cli.benchmarking.measure import Call, copies_for, copy_bandwidths, time_calls, weigh
from featup_cli.benchmarking.settings import Settings
from featup_cli.core.errors import UsageError
from featup_cli.core.memory import MIB, why_it_does_not_fit
from featup_cli.core.progress import Announce

# Buffers of a size (of inputs and output; of the unfolded windows) that one call holds at most, forward and backward:
# estimates, to skip in time what can't fit.
PLAIN_BUFFERS = {False: 4, True: 6}
UNFOLDED_BUFFERS = {False: 2, True: 4}
QUICK_S = 1.0
PEAK = "peak_above_inputs_mib"


class Sizes:
    """Bytes of a case.

    Attributes:
        inputs, output: bytes of the inputs and of the output, without scalars.
        results: bytes of results in the peak memory of a call: the output and, for backward, the gradients.
        moved: least memory traffic: every input read once, every output written once. Backward reads the inputs and
            the gradient of the output and writes the gradients; some operations also read their output.
    """

    def __init__(self, case: Case) -> None:
        cases, width = cases_of(case.operation), getattr(torch, case.dtype).itemsize
        self.backward = case.backward
        self.inputs = width * cases.input_values(case)
        self.output = width * math.prod(cases.output(case))
        self.results = self.output + (self.inputs if case.backward else 0)
        self.moved = self.inputs + self.results + (self.output if case.backward and cases.reads_output else 0)
        # All windows of the source; the plain formulations unfold half types in float32.
        self.unfolded = max(4, width) * case.batch * case.height * case.width * case.channels * case.window**2

    def needed(self, *, unfolds: bool) -> int:
        """Estimate of the memory of one call, its inputs included."""
        plain = PLAIN_BUFFERS[self.backward] * (self.inputs + self.output)
        return plain + (UNFOLDED_BUFFERS[self.backward] * self.unfolded if unfolds else 0)


@dataclass(frozen=True)
class Contestant:
    """Something that computes the case, or a task of the same output size.

    Attributes:
        function: maps `inputs` to the output.
        needed_bytes: estimated memory of one call and its graph.
        compiles: whether its first call compiles, so that its time and memory are not typical.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    needed_bytes: int
    compiles: bool = False


def resolve_backend(case: Case, asked: str, device: torch.device) -> str:
    """The backend that will run.

    Raises:
        UsageError: the requested backend can't run here, or has no gradients; the message says why.
    """
    try:
        chosen = choose_backend(case.operation, asked, device.type, getattr(torch, case.dtype))
    except BackendError as error:
        raise UsageError(f"--backend {asked}: {error}") from None
    able = OPERATIONS[case.operation].gradients
    if case.backward and chosen not in able:
        raise UsageError(f"--backward: {case.operation} has gradients only with the backend {' or '.join(able)}")
    return chosen


def measure_cases(cases: Iterable[Case], settings: Settings, device: torch.device, note: Announce) -> dict[str, Any]:
    """`rows` of `measure_case`, and the copy bandwidth that sets their floor, as JSON values."""
    note("copy bandwidth")
    reused, fresh = copy_bandwidths(device, min(2.0, max(0.2, settings.budget_s)))
    rows = [measure_case(case, settings, device, reused, note) for case in cases]
    return {"copy_gib_per_s": reused / 2**30, "fresh_copy_gib_per_s": fresh / 2**30, "rows": rows}


def measure_case(
    case: Case, settings: Settings, device: torch.device, copy_bytes_per_s: float, note: Announce
) -> dict[str, Any]:
    """Check a case, then measure it and its baselines.

    Args:
        case: the case to run.
        settings: backend, baselines, repeats, budget and seed.
        device: where.
        copy_bytes_per_s: bandwidth that sets the floor, measured in the same run.
        note: called with status messages.
    Returns:
        The figures as JSON values, or `skipped` with the reason.
    Raises:
        WrongResultError: the kernel is wrong; UsageError: the backend can't run.
    """
    backend = resolve_backend(case, settings.backend, device)
    record: dict[str, Any] = {
        "operation": case.operation, "shape": case.shape, "batch": case.batch, "height": case.height,
        "width": case.width, "channels": case.channels, "window": case.window, "dtype": case.dtype,
        "direction": case.direction, "backend": backend,
    }  # fmt: skip
    if OPERATIONS[case.operation].scaled:
        record["scale"] = case.scale
    reason = why_it_does_not_fit(Sizes(case).needed(unfolds=backend == "reference"), device)
    if reason is not None:
        return record | {"skipped": reason}
    try:
        return record | _check_and_measure(case, settings, device, backend, copy_bytes_per_s, note)
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        return record | {"skipped": first_line(error)}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _check_and_measure(
    case: Case, settings: Settings, device: torch.device, backend: str, copy_bytes_per_s: float, note: Announce
) -> dict[str, Any]:
    label, sizes = f"{case.operation} {case.shape} {case.direction}", Sizes(case)
    inputs = cases_of(case.operation).inputs(case, torch.Generator(device).manual_seed(settings.seed))
    note(f"{label}: checking {backend}")
    check = check_result(case, backend, inputs)
    note(f"{label}: timing {backend}")
    ours = measure(_kernel(backend, case, inputs), case, settings, device)
    floor_ms, results_mib, peak_mib = 1e3 * sizes.moved / copy_bytes_per_s, sizes.results / MIB, ours[PEAK]
    record = {
        "check": check, **ours,
        "rotating_mib": ours["copies"] * sizes.inputs / MIB, "moved_mib": sizes.moved / MIB,
        "floor_ms": floor_ms, "floor_share": floor_ms / ours["time_ms"],
        "inputs_mib": sizes.inputs / MIB, "results_mib": results_mib,
        "scratch_mib": None if peak_mib is None else max(0.0, peak_mib - results_mib),
        "baselines": {},
    }  # fmt: skip
    for name in settings.baselines:
        if name == backend:
            continue
        note(f"{label}: timing {name}")
        try:
            contestant = make_baseline(name, case, inputs)
            reason = why_it_does_not_fit(contestant.needed_bytes - sizes.inputs, device)
            found = {"skipped": reason} if reason else measure(contestant, case, settings, device)
            if "time_ms" in found:
                found["ratio"] = found["time_ms"] / ours["time_ms"]
        except Exception as error:  # a baseline that can't run, for whatever reason, must not stop the rest
            found = {"skipped": first_line(error)}
        record["baselines"][name] = found
    return record


def _kernel(backend: str, case: Case, inputs: tuple[Tensor, ...]) -> Contestant:
    needed = Sizes(case).needed(unfolds=backend == "reference")
    return Contestant(partial(cases_of(case.operation).run, case, backend), inputs, needed)


def make_baseline(name: str, case: Case, inputs: tuple[Tensor, ...]) -> Contestant:
    """A baseline by name, one of `settings.BASELINES` or `settings.EXTRA_BASELINES`.

    `reference` unfolds and contracts (`neighbor_mix`: samples every neighbour); `loop` is the eager loop over taps;
    `compile` is torch.compile of it and `torchscript` its trace; `bilinear` resizes a smaller map to an output of the
    same shape; `flex` is FlexAttention over windows, with taps made positive.
    """
    cases, sizes = cases_of(case.operation), Sizes(case)
    needed = sizes.needed(unfolds=False)

    def loop(*x: Tensor) -> Tensor:
        return cases.loop(case, *x)

    if name == "reference":
        return _kernel(name, case, inputs)
    if name == "loop":
        return Contestant(loop, inputs, needed)
    if name == "compile":
        # What earlier cases compiled would count towards the limit of recompilations of one function.
        torch.compiler.reset()
        return Contestant(torch.compile(loop, dynamic=False), inputs, needed, True)
    if name == "torchscript":
        return Contestant(torch.jit.trace(loop, inputs, check_trace=False), inputs, needed, True)
    if name == "flex":
        if not cases.attention:
            raise UsageError(f"FlexAttention can't compute {case.operation}, whose result is not a weighted mean")
        source, taps = inputs
        return Contestant(flex_filter(case, source.device), (source, taps.softmax(1)), needed, True)
    factor = case.scale if OPERATIONS[case.operation].scaled else 2
    batch, channels, height, width = cases.output(case)
    low = inputs[0].new_ones(batch, channels, -(-height // factor), -(-width // factor))
    return Contestant(
        lambda x: F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False), (low,), 3 * sizes.output
    )


def measure(contestant: Contestant, case: Case, settings: Settings, device: torch.device) -> dict[str, Any]:
    """Time and peak memory of a contestant, with calls that rotate over `copies` of its inputs, as JSON values.

    Forward: both of the function. Backward: memory of the function and its gradients together; time of the gradients
    alone (all inputs), on graphs that were kept.
    """
    function = contestant.function
    leaves = tuple(x.detach().requires_grad_(case.backward) for x in contestant.inputs)
    shape = cases_of(case.operation).output(case)
    d_out = contestant.inputs[0].new_ones(shape if case.backward else ())

    def once() -> Any:
        out = function(*leaves)
        return (out, torch.autograd.grad(out, leaves, d_out)) if case.backward else out

    with torch.set_grad_enabled(case.backward), _kept_graphs():
        peak, first_call_s = weigh(once, device)
        # A first call may compile and load libraries, which counts in its peak: weigh another, unless that is too slow.
        if contestant.compiles or first_call_s < QUICK_S:
            peak, _ = weigh(once, device)
        rotating = sum(x.nbytes for x in contestant.inputs) + d_out.nbytes
        copies = copies_for(rotating, contestant.needed_bytes, device)
        call = rotating_call(function, leaves, d_out, copies, case.backward)
        timing = time_calls(call, device, repeat=settings.repeat, budget_s=settings.budget_s)
        return timing.record() | {"copies": copies, "first_call_s": first_call_s} | peak.record()


def rotating_call(
    function: Callable[..., Tensor], leaves: tuple[Tensor, ...], d_out: Tensor, copies: int, backward: bool
) -> Call:
    """A call that rotates over copies of the inputs: the function, or its gradients alone."""
    sets = [leaves] + [tuple(x.detach().clone().requires_grad_(backward) for x in leaves) for _ in range(copies - 1)]
    if not backward:
        return lambda i: function(*sets[i % copies])
    graphs = [(function(*x), x, d_out.clone()) for x in sets]

    def call(i: int) -> Any:
        out, x, d = graphs[i % copies]
        return torch.autograd.grad(out, x, d, retain_graph=True)

    return call


def _kept_graphs() -> AbstractContextManager[Any]:
    """Let torch.compile build graphs that can be differentiated more than once."""
    if not hasattr(functorch_config, "donated_buffer"):
        return nullcontext()
    return functorch_config.patch(donated_buffer=False)


def first_line(error: BaseException) -> str:
    """An error of any kind in one line of moderate length."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else 'no message'}"
