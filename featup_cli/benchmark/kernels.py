"""One case of one kernel: check it, then time and weigh it beside its baselines and the floor set by memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config as functorch_config
import torch.nn.functional as F
from featup_kernels import BackendError
from featup_kernels.dispatch import choose_backend
from torch import Tensor

from featup_cli.benchmark.attention import flex_filter
from featup_cli.benchmark.check import check_result
from featup_cli.benchmark.measure import Call, Timing, copies_for, time_calls, weigh
from featup_cli.benchmark.operations import OPERATIONS, Operation
from featup_cli.benchmark.settings import SCALED, Case, Settings
from featup_cli.core.errors import UsageError
from featup_cli.core.memory import MIB, Peak, why_it_does_not_fit

Note = Callable[[str], None]

# Buffers of a size (of inputs and output; of the unfolded windows) that one call holds at most, forward and backward:
# estimates, to skip in time what can't fit.
PLAIN_BUFFERS = {False: 4, True: 6}
UNFOLDED_BUFFERS = {False: 2, True: 4}
QUICK_S = 1.0


@dataclass(frozen=True)
class Sizes:
    """Bytes of a case: of its inputs, of its output, and of all windows of the source, unfolded."""

    inputs: int
    output: int
    unfolded: int

    @classmethod
    def of(cls, case: Case) -> Sizes:
        """The sizes of a case; the plain formulations unfold half types in float32."""
        width = torch.finfo(getattr(torch, case.dtype)).bits // 8
        operation = OPERATIONS[case.operation]
        windows = case.batch * case.height * case.width * case.channels * case.window**2
        return cls(
            width * operation.input_values(case),
            width * math.prod(operation.output_shape(case)),
            max(4, width) * windows,
        )

    def moved(self, case: Case) -> int:
        """Bytes that must move: every input read once, every output written once.

        Backward reads the inputs and the gradient of the output and writes the gradients; `range_taps` also reads its
        output, as a softmax does.
        """
        if not case.backward:
            return self.inputs + self.output
        return 2 * self.inputs + self.output * (2 if case.operation == "range_taps" else 1)

    def results(self, case: Case) -> int:
        """Bytes of the results that the peak memory of a call includes: the output, and backward the gradients."""
        return self.output + (self.inputs if case.backward else 0)

    def needed(self, case: Case, *, unfolds: bool) -> int:
        """Estimate of the memory of one call, its inputs included."""
        plain = PLAIN_BUFFERS[case.backward] * (self.inputs + self.output)
        return plain + (UNFOLDED_BUFFERS[case.backward] * self.unfolded if unfolds else 0)


@dataclass(frozen=True)
class Contestant:
    """Something that computes the case, or a task of the same output size.

    Attributes:
        function: of `inputs`, to the output.
        needed_bytes: estimate of what one call and its graph keep in memory.
        compiles: whether its first call is no example of the next ones.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    needed_bytes: int
    compiles: bool = False


@dataclass(frozen=True)
class Figures:
    """What was measured of a contestant; `copies` of its inputs were rotated over."""

    timing: Timing
    peak: Peak
    copies: int
    first_call_s: float

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **self.timing.record(), "copies": self.copies, "first_call_s": self.first_call_s, **self.peak.record()
        }  # fmt: skip


def resolve_backend(case: Case, asked: str, device: torch.device) -> str:
    """The backend that will run.

    Raises:
        UsageError: the one asked for can't run here, or has no gradients; the message says why.
    """
    try:
        chosen = choose_backend(case.operation, asked, device.type, getattr(torch, case.dtype))
    except BackendError as error:
        raise UsageError(f"--backend {asked}: {error}") from None
    if case.operation == "resampled_conv" and case.backward and chosen != "reference":
        raise UsageError("--backward: of the backends of resampled_conv only reference has gradients")
    return chosen


def measure_case(
    case: Case, settings: Settings, device: torch.device, copy_bytes_per_s: float, note: Note
) -> dict[str, Any]:
    """Check a case, then measure it and its baselines.

    Args:
        case: what to run.
        settings: backend, baselines, repeats, budget and seed.
        device: where.
        copy_bytes_per_s: bandwidth that sets the floor, measured in the same run.
        note: told what happens.
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
    if case.operation in SCALED:
        record["scale"] = case.scale
    sizes = Sizes.of(case)
    reason = why_it_does_not_fit(sizes.needed(case, unfolds=backend == "reference"), device)
    if reason is not None:
        return record | {"skipped": reason}
    try:
        return record | _check_and_measure(case, settings, device, backend, sizes, copy_bytes_per_s, note)
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        return record | {"skipped": first_line(error)}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _check_and_measure(
    case: Case,
    settings: Settings,
    device: torch.device,
    backend: str,
    sizes: Sizes,
    copy_bytes_per_s: float,
    note: Note,
) -> dict[str, Any]:
    operation = OPERATIONS[case.operation]
    label = f"{case.operation} {case.shape} {case.direction}"
    inputs = operation.make_inputs(case, torch.Generator(device).manual_seed(settings.seed))
    note(f"{label}: checking {backend}")
    check = check_result(case, operation, backend, inputs)
    needed = sizes.needed(case, unfolds=backend == "reference")
    note(f"{label}: timing {backend}")
    ours = measure(Contestant(lambda *x: operation.run(case, backend, *x), inputs, needed), case, settings, device)
    floor_ms = 1e3 * sizes.moved(case) / copy_bytes_per_s
    record = {
        "check": check, **ours.record(),
        "rotating_mib": ours.copies * sizes.inputs / MIB, "moved_mib": sizes.moved(case) / MIB,
        "floor_ms": floor_ms, "floor_share": floor_ms / ours.timing.median_ms,
        "inputs_mib": sizes.inputs / MIB, "results_mib": sizes.results(case) / MIB, "scratch_mib": None,
        "baselines": {},
    }  # fmt: skip
    if ours.peak.above_bytes is not None:
        record["scratch_mib"] = max(0.0, (ours.peak.above_bytes - sizes.results(case)) / MIB)
    for name in settings.baselines:
        if name == backend:
            continue
        note(f"{label}: timing {name}")
        try:
            contestant = make_baseline(name, case, operation, inputs, sizes)
            reason = why_it_does_not_fit(contestant.needed_bytes - sizes.inputs, device)
            if reason is None:
                theirs = measure(contestant, case, settings, device)
                found = theirs.record() | {"ratio": theirs.timing.median_ms / ours.timing.median_ms}
            else:
                found = {"skipped": reason}
        except Exception as error:  # a baseline that can't run, for whatever reason, must not stop the rest
            found = {"skipped": first_line(error)}
        record["baselines"][name] = found
    return record


def make_baseline(name: str, case: Case, operation: Operation, inputs: tuple[Tensor, ...], sizes: Sizes) -> Contestant:
    """A baseline by name, one of `settings.BASELINES` or `settings.EXTRA_BASELINES`.

    `reference` unfolds and contracts (`neighbor_mix`: samples every neighbour); `loop` is the eager loop over taps;
    `compile` is torch.compile of it and `torchscript` its trace; `bilinear` resizes a smaller map to an output of the
    same shape; `flex` is FlexAttention over windows, on taps that are made positive.
    """

    def loop(*x: Tensor) -> Tensor:
        return operation.loop(case, *x)

    if name == "reference":
        return Contestant(lambda *x: operation.run(case, name, *x), inputs, sizes.needed(case, unfolds=True))
    if name == "loop":
        return Contestant(loop, inputs, sizes.needed(case, unfolds=False))
    if name == "compile":
        # What earlier cases compiled would count towards the limit of recompilations of one function.
        torch.compiler.reset()
        return Contestant(torch.compile(loop, dynamic=False), inputs, sizes.needed(case, unfolds=False), True)
    if name == "torchscript":
        traced = torch.jit.trace(loop, inputs, check_trace=False)
        return Contestant(traced, inputs, sizes.needed(case, unfolds=False), True)
    if name == "flex":
        if case.operation != "adaptive_conv":
            raise UsageError(f"FlexAttention is no baseline of {case.operation}: its result is no weighted mean")
        source, taps = inputs
        needed = sizes.needed(case, unfolds=False)
        return Contestant(flex_filter(case, source.device), (source, taps.softmax(1)), needed, True)
    factor = case.scale if case.operation in SCALED else 2
    batch, channels, height, width = operation.output_shape(case)
    low = inputs[0].new_ones(batch, channels, -(-height // factor), -(-width // factor))
    return Contestant(
        lambda x: F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False), (low,), 3 * sizes.output
    )


def measure(contestant: Contestant, case: Case, settings: Settings, device: torch.device) -> Figures:
    """Peak memory and time of a contestant.

    Forward: both of the function. Backward: memory of the function and its gradients together; time of the gradients
    alone (all inputs), on graphs that were kept.
    """
    function = contestant.function
    leaves = tuple(x.detach().requires_grad_(case.backward) for x in contestant.inputs)
    shape = OPERATIONS[case.operation].output_shape(case)
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
        return Figures(timing, peak, copies, first_call_s)


def rotating_call(
    function: Callable[..., Tensor], leaves: tuple[Tensor, ...], d_out: Tensor, copies: int, backward: bool
) -> Call:
    """A call over copies of the inputs in turn: the function, or its gradients alone."""
    sets = [leaves] + [tuple(x.detach().clone().requires_grad_(backward) for x in leaves) for _ in range(copies - 1)]
    if not backward:
        return lambda i: function(*sets[i % copies])
    graphs = [(function(*x), x, d_out.clone()) for x in sets]

    def call(i: int) -> Any:
        out, x, d = graphs[i % copies]
        return torch.autograd.grad(out, x, d, retain_graph=True)

    return call


def _kept_graphs() -> AbstractContextManager[Any]:
    """Let torch.compile make graphs that can be differentiated more than once."""
    if not hasattr(functorch_config, "donated_buffer"):
        return nullcontext()
    return functorch_config.patch(donated_buffer=False)


def first_line(error: BaseException) -> str:
    """An error of any kind in one line of moderate length."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else 'no message'}"
