"""When a step is captured and replayed. Without a GPU, a stand-in for CUDA graphs records calls and replays them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from featup_cli.ops.capture import EXPECTED, NO_CUDA, NOT_ASKED, TOO_FEW, WARM_UP, CapturedStep

CUDA = torch.device("cuda", 0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class FakeGenerator:
    """Remembers the states that it was given."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def clone_state(self) -> str:
        return "copy"

    def graphsafe_set_state(self, state: str) -> None:
        self.states.append(state)


class FakeCuda:
    """What `CapturedStep` uses of `torch.cuda`: `log` holds what was done, `capturing` says whether a graph records."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.capturing = False
        self.generator = FakeGenerator()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = self

        class Graph:
            def register_generator_state(self, generator: FakeGenerator) -> None:
                fake.log.append("register")

            def capture_begin(self, capture_error_mode: str) -> None:
                fake.capturing = True

            def capture_end(self) -> None:
                fake.capturing = False

            def replay(self) -> None:
                fake.log.append("replay")

        def stream(index: int) -> SimpleNamespace:
            waits = SimpleNamespace(wait_stream=lambda other: None, device=SimpleNamespace(index=index))
            return waits

        @contextmanager
        def entered(chosen: SimpleNamespace) -> Iterator[None]:
            yield

        for name, stand_in in {
            "CUDAGraph": Graph, "Stream": lambda device: stream(device.index), "stream": entered,
            "current_stream": lambda device: stream(device.index), "synchronize": lambda device: None,
            "default_generators": (self.generator,),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def step(self) -> None:
        self.log.append("recorded" if self.capturing else "taken")


def test_without_cuda_every_call_is_a_plain_one() -> None:
    calls: list[int] = []
    step = CapturedStep(lambda: calls.append(1), torch.device("cpu"), [torch.Generator()])
    for _ in range(WARM_UP + 3):
        step()
    assert len(calls) == WARM_UP + 3
    assert not step.captured
    assert step.reason == NO_CUDA


def test_on_cuda_a_step_is_recorded_once_after_the_first_calls_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    step = CapturedStep(cuda.step, CUDA, [FakeGenerator()])  # type: ignore[list-item]
    for done in range(1, WARM_UP + 3):
        step()
        assert step.captured == (done > WARM_UP)
        assert step.reason == ("" if done > WARM_UP else TOO_FEW)
    # Each call takes or replays one step; recording one takes none.
    assert cuda.log == ["taken"] * WARM_UP + ["register", "recorded", "replay", "replay"]


def test_a_step_that_can_not_be_captured_is_still_taken_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, draws = FakeCuda(), FakeGenerator()
    cuda.install(monkeypatch)

    def step() -> None:
        if cuda.capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nand more lines")
        cuda.step()

    attempts = CapturedStep(step, CUDA, [draws])  # type: ignore[list-item]
    for _ in range(WARM_UP + 3):
        attempts()
    assert cuda.log == ["taken"] * WARM_UP + ["register"] + ["taken"] * 3
    assert not attempts.captured
    assert attempts.reason == "operation not permitted when stream is capturing"
    assert attempts.reason not in EXPECTED
    assert draws.states == cuda.generator.states == ["copy"]


def test_capture_can_be_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    step = CapturedStep(cuda.step, CUDA, enabled=False)
    for _ in range(WARM_UP + 2):
        step()
    assert cuda.log == ["taken"] * (WARM_UP + 2)
    assert (step.captured, step.reason) == (False, NOT_ASKED)


@needs_gpu
def test_replays_draw_the_numbers_that_plain_calls_draw() -> None:
    def totals(enabled: bool) -> list[float]:
        generator = torch.Generator(CUDA).manual_seed(3)
        torch.cuda.manual_seed(4)
        total = torch.zeros(2, device=CUDA)

        def step() -> None:
            own = torch.rand(1000, device=CUDA, generator=generator).sum()
            total.add_(torch.stack((own, torch.rand(1000, device=CUDA).sum())))

        advance = CapturedStep(step, CUDA, [generator], enabled)
        for _ in range(WARM_UP + 5):
            advance()
        assert advance.captured == enabled
        return total.tolist()

    assert totals(True) == totals(False)


@needs_gpu
def test_a_failed_capture_leaves_generators_that_draw() -> None:
    generator = torch.Generator(CUDA).manual_seed(3)
    drawn: list[float] = []
    advance = CapturedStep(
        lambda: drawn.append(float(torch.rand((), device=CUDA, generator=generator))), CUDA, [generator]
    )
    for _ in range(WARM_UP + 3):
        advance()
    assert advance.reason not in EXPECTED
    expected = torch.Generator(CUDA).manual_seed(3)
    assert drawn == [float(torch.rand((), device=CUDA, generator=expected)) for _ in range(WARM_UP + 3)]
