"""Replay calls of a function of tensors that come again and again with the same shapes.

A feed-forward upsampler issues hundreds of small kernels. For maps of a few hundred pixels a side the host takes
several times as long to launch them as a GPU takes to run them. A CUDA graph launches them all at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

from featup_cli.ops.capture import EXPECTED, CapturedStep

PLAIN_CALLS = 2  # of a kind, before memory is kept for it; `CapturedStep` makes some more before it captures
KEPT = 4  # kinds of calls whose graphs are kept, and with each the memory of one call
MEMORY_SHARE = 1 / 128  # of the device's memory: a larger result takes so long that launches don't count


class ReplayedCalls:
    """Calls `function`; on a CUDA GPU, kinds of calls that repeat become replays of a CUDA graph, with equal results.

    Calls are of one kind if shapes, types and devices of their tensors, their other arguments, the stream and the
    memory of the `state` are the same. The state may change in place. What can't be captured stays a plain call. Calls
    with gradients, under autocast or inside a compiler are plain.

    Args:
        function: maps tensors, then hashable arguments, to a tensor. It must depend on nothing else that changes.
        state: gives the tensors that it reads besides its arguments, such as weights.
    """

    def __init__(self, function: Callable[..., Tensor], state: Callable[[], Iterable[Tensor]]) -> None:
        self.function = function
        self.state = state
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._lock = threading.Lock()  # between the writing of a graph's inputs and the reading of its result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function, self.state)  # a copy has graphs of its own

    def __call__(self, tensors: tuple[Tensor, ...], *rest: Hashable) -> Tensor:
        """The result of `function(*tensors, *rest)`, in memory of its own."""
        if not self.replays(tensors[0].device):
            return self.function(*tensors, *rest)
        key = self._key(tensors, rest)
        with self._lock:
            kind = self._kinds.setdefault(key, _Kind())
            self._kinds.move_to_end(key)
            while len(self._kinds) > KEPT:
                self._kinds.popitem(last=False)
            return kind(self.function, tensors, rest)

    def replays(self, device: torch.device) -> bool:
        """Whether calls on a device may become replays, as things are."""
        return (
            device.type == "cuda"
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cuda")
            and not torch.compiler.is_compiling()
            and not torch.cuda.is_current_stream_capturing()
        )

    def captured(self) -> list[bool]:
        """For each kind that is kept, the oldest first, whether its calls are replays now."""
        return [kind.step is not None and kind.step.captured for kind in self._kinds.values()]

    def _key(self, tensors: tuple[Tensor, ...], rest: tuple[Hashable, ...]) -> Hashable:
        kinds = tuple((tuple(x.shape), x.dtype, x.device) for x in tensors)
        memory = tuple(x.data_ptr() for x in self.state())
        modes = torch.is_inference_mode_enabled(), torch.get_float32_matmul_precision()
        return kinds, rest, memory, modes, stream_of(tensors[0].device)


class _Kind:
    """Calls of one kind: how many there were plain, then a step with the memory that it reads and writes."""

    def __init__(self) -> None:
        self.calls = 0
        self.inputs: tuple[Tensor, ...] = ()
        self.output: Tensor | None = None
        self.step: CapturedStep | None = None

    def __call__(self, function: Callable[..., Tensor], tensors: tuple[Tensor, ...], rest: tuple[Any, ...]) -> Tensor:
        self.calls += 1
        if self.step is None:
            out = function(*tensors, *rest)
            if self.calls == PLAIN_CALLS and out.nbytes <= MEMORY_SHARE * memory_of(out.device):
                self._begin(function, tensors, rest)
            return out
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.step()
        assert self.output is not None
        out = self.output.clone()  # the next call writes over it
        if self.step.reason not in EXPECTED:
            self.step, self.inputs, self.output = None, (), None
        return out

    def _begin(self, function: Callable[..., Tensor], tensors: tuple[Tensor, ...], rest: tuple[Any, ...]) -> None:
        self.inputs = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors)

        def step() -> None:
            self.output = function(*self.inputs, *rest)

        self.step = CapturedStep(step, tensors[0].device)


def memory_of(device: torch.device) -> int:
    """Bytes of a CUDA device's memory."""
    return torch.cuda.get_device_properties(device).total_memory


def stream_of(device: torch.device) -> int:
    """The current stream of a CUDA device, as a number."""
    return torch.cuda.current_stream(device).cuda_stream
