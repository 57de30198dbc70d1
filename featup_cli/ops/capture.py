"""Run a repeated step as one CUDA graph: the host launches a graph instead of hundreds of kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

WARM_UP = 3  # calls before the capture: in the first ones libraries load kernels and optimisers make their state
NO_CUDA = "the device is not a CUDA GPU"
NOT_ASKED = "not requested"
TOO_FEW = "too few steps"
EXPECTED = ("", NO_CUDA, NOT_ASKED, TOO_FEW)
"""Reasons that are not failures."""


class CapturedStep:
    """Calls `step`. On a CUDA device the first calls are plain, then one is captured and all later ones replay it.

    A replay reads and writes the same memory as the captured call and runs no Python. So every value that changes
    between calls must come from one of the generators or from a tensor that is written between calls. `step` takes
    no arguments, returns nothing, never waits for the device, and copies nothing from or to the host.

    If a step can't be captured, it continues in plain calls, and `reason` says why.

    Args:
        step: what to call.
        device: where its tensors are.
        generators: generators of that device that it draws from; the default one is always included.
        enabled: False for plain calls only.

    Attributes:
        captured: whether calls are now replays.
        reason: why they are not; empty if they are.
    """

    def __init__(
        self, step: Callable[[], None], device: torch.device, generators: Sequence[torch.Generator] = (),
        enabled: bool = True,
    ) -> None:  # fmt: skip
        self.step = step
        self.device = device
        self.generators = generators
        self.reason = NO_CUDA if device.type != "cuda" else TOO_FEW if enabled else NOT_ASKED
        self._graph: torch.cuda.CUDAGraph | None = None
        # Warm-up and capture share a stream, so that what libraries and autograd keep for a stream exists by then.
        self._stream = torch.cuda.Stream(device) if self.reason == TOO_FEW else None
        self._calls = 0

    @property
    def captured(self) -> bool:
        """Whether calls are now replays."""
        return self._graph is not None

    def __call__(self) -> None:
        """Run the step once."""
        self._calls += 1
        if self._stream is not None and self._calls == WARM_UP + 1:
            self._try_capture(self._stream)
        if self._graph is not None:
            self._graph.replay()
        elif self._stream is not None:
            self._call_on(self._stream)
        else:
            self.step()

    def _call_on(self, stream: torch.cuda.Stream) -> None:
        current = torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self.step()
        current.wait_stream(stream)

    def _try_capture(self, stream: torch.cuda.Stream) -> None:
        try:
            self._graph = self._capture(stream)
            self.reason = ""
        except RuntimeError as error:
            self.reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            self._stream = None
            # A failed capture leaves generators in capture mode, where they refuse to draw; a copied state is not.
            for generator in (*self.generators, torch.cuda.default_generators[stream.device.index]):
                generator.graphsafe_set_state(generator.clone_state())

    def _capture(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        """Record the step without running it.

        Raises:
            RuntimeError: the step does something that a graph can't hold, such as waiting for a result.
        """
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        torch.cuda.synchronize(self.device)
        # Unlike `torch.cuda.graph` this returns to the caller's stream after a failure too.
        with torch.cuda.stream(stream):
            # Other threads read and write pictures meanwhile; what they do on the device must not break the capture.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.step()
            except BaseException:
                with suppress(RuntimeError):  # the step's own error says more
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph
