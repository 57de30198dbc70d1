"""Which calls become replays, and that each result is that of its own arguments. A stand-in takes the graph's part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch._dynamo  # before any patch: it keeps what it finds
from torch import Tensor

from featup_cli.ops import replay
from featup_cli.ops.capture import WARM_UP
from featup_cli.ops.replay import KEPT, PLAIN_CALLS, ReplayedCalls
from featup_cli.upsamplers.attached import PretrainedUpsampler
from featup_cli.upsamplers.jbu import stack
from featup_cli.upsamplers.jbu.classical import CLASSICAL
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler
from featup_cli.upsamplers.resfu.upsampler import ReSFU
from tests.upsamplers.device_traffic import META, no_host_traffic

NEEDED = PLAIN_CALLS + WARM_UP + 1  # calls until one replays
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Step:
    """As `CapturedStep`, on a CPU: after the capture a call repeats what the captured one did, with the same memory."""

    fails = False

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self.step, self.calls, self.reason = step, 0, "too few steps"

    @property
    def captured(self) -> bool:
        return not self.reason

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == WARM_UP + 1:
            self.reason = "it waits" if self.fails else ""
        self.step()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[Step]:
    """Everything but the graph: the policy runs on CPU tensors as if they were on a GPU."""
    monkeypatch.setattr(replay, "CapturedStep", Step)
    monkeypatch.setattr(replay, "stream_of", lambda device: 0)
    monkeypatch.setattr(replay, "memory_of", lambda device: 2**20)
    monkeypatch.setattr(ReplayedCalls, "replays", lambda self, device: True)
    monkeypatch.setattr(Step, "fails", False)
    return Step


class Scale:
    """Multiplies by a weight and by an argument, and counts its calls."""

    def __init__(self) -> None:
        self.weight = torch.tensor(2.0)
        self.calls = 0

    def __call__(self, x: Tensor, factor: float) -> Tensor:
        self.calls += 1
        return x * self.weight * factor

    def replayed(self) -> ReplayedCalls:
        return ReplayedCalls(self, lambda: [self.weight])


@pytest.mark.usefixtures("stand_in")
def test_every_result_is_that_of_its_own_arguments() -> None:
    scale = Scale()
    calls, results = scale.replayed(), []
    for i in range(NEEDED + 3):
        results.append(calls((torch.full((4,), float(i)),), 3.0))
        assert calls.captured() == [i + 1 >= NEEDED]
    assert [float(r[0]) for r in results] == [6.0 * i for i in range(NEEDED + 3)]  # none was written over


@pytest.mark.usefixtures("stand_in")
def test_kinds_are_apart_and_the_oldest_are_forgotten() -> None:
    calls = Scale().replayed()
    for _ in range(NEEDED):
        assert calls((torch.ones(3),), 1.0).tolist() == [2.0] * 3
        assert calls((torch.ones(3),), 5.0).tolist() == [10.0] * 3
        assert calls((torch.ones(2, 2),), 1.0).tolist() == [[2.0] * 2] * 2
    assert calls.captured() == [True] * 3
    for i in range(KEPT):
        calls((torch.ones(i + 5),), 1.0)
    assert calls.captured() == [False] * KEPT


@pytest.mark.usefixtures("stand_in")
def test_weights_may_change_in_place_and_others_are_seen() -> None:
    scale = Scale()
    calls = scale.replayed()
    for _ in range(NEEDED):
        calls((torch.ones(1),), 1.0)
    scale.weight.fill_(7.0)
    assert calls((torch.ones(1),), 1.0).item() == 7.0
    scale.weight = torch.tensor(9.0)
    assert calls((torch.ones(1),), 1.0).item() == 9.0
    assert calls.captured() == [True, False]


def test_what_cannot_be_captured_stays_plain(stand_in: type[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "fails", True)
    scale = Scale()
    calls = scale.replayed()
    for i in range(NEEDED + 3):
        assert calls((torch.full((1,), float(i)),), 1.0).item() == 2.0 * i
    assert calls.captured() == [False]
    assert scale.calls == NEEDED + 3


def test_a_copy_of_an_upsampler_calls_its_own_network() -> None:
    image, feats = torch.rand(1, 3, 8, 8), torch.randn(1, 4, 4, 4)
    upsampler = PretrainedUpsampler(JBUUpsampler(JBUConfig()), {"config": {}}, [])
    twin = copy.deepcopy(upsampler)
    for stage in upsampler.module.stages:
        stage.sigma_spatial.data.fill_(0.1)
    assert not torch.equal(twin(image, feats, (8, 8)), upsampler(image, feats, (8, 8)))
    with torch.no_grad():
        assert torch.equal(twin(image, feats, (8, 8)), twin.module(image, feats, (8, 8)))


@pytest.mark.usefixtures("stand_in")
def test_no_memory_is_kept_for_a_large_result() -> None:
    calls = Scale().replayed()
    for _ in range(NEEDED + 1):
        calls((torch.ones(2**20 // 128 // 4 + 1),), 1.0)
    assert calls.captured() == [False]


@pytest.mark.usefixtures("stand_in")
def test_an_error_is_the_callers() -> None:
    calls = Scale().replayed()
    with pytest.raises(TypeError):
        calls((torch.ones(1),), "wide")
    assert calls((torch.ones(1),), 1.0).item() == 2.0


def test_on_a_cpu_calls_are_plain() -> None:
    scale = Scale()
    calls = scale.replayed()
    with torch.no_grad():
        for _ in range(NEEDED + 1):
            calls((torch.ones(1),), 1.0)
    assert calls.captured() == []


@pytest.mark.parametrize("method", ["jbu", "classical-jbu"])
@pytest.mark.parametrize("size", [(28, 28), (40, 21)])
@torch.no_grad()
def test_a_call_that_came_before_makes_the_host_wait_for_nothing(
    method: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # neither knows `meta`
    monkeypatch.setattr(torch, "autocast", lambda device, enabled: nullcontext())
    monkeypatch.setattr(stack, "resampled_conv_runs_fused", lambda source, taps: True)  # as on a GPU
    module = JBUUpsampler(CLASSICAL if method == "classical-jbu" else JBUConfig()).to(META)
    image, feats = torch.rand(1, 3, 28, 20, device=META), torch.randn(1, 24, 7, 5, device=META)
    module(image, feats, size)  # fills what is kept for sizes
    with no_host_traffic():
        assert module(image, feats, size).shape == (1, 24, *size)


@needs_gpu
@pytest.mark.parametrize("size", [(28, 28), (40, 21)], ids=["doubling", "uneven and finer than the picture"])
def test_a_replay_of_jbu_equals_a_plain_call(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = JBUUpsampler(JBUConfig()).cuda()
    upsampler = PretrainedUpsampler(module, {"config": {}}, [])
    for _ in range(NEEDED + 2):
        image, feats = torch.rand(1, 3, 28, 20, device="cuda"), torch.randn(1, 24, 7, 5, device="cuda")
        with torch.no_grad():
            expected = module(image, feats, size)
        assert torch.equal(upsampler(image, feats, size), expected)
    assert upsampler.replayed.captured() == [True]


@needs_gpu
def test_what_a_graph_cannot_hold_is_never_tried() -> None:
    upsampler = PretrainedUpsampler(ReSFU(24).cuda(), {"config": {}}, [])
    for _ in range(NEEDED + 2):
        image, feats = torch.rand(1, 3, 28, 20, device="cuda"), torch.randn(1, 24, 7, 5, device="cuda")
        assert upsampler(image, feats, (28, 20)).isfinite().all()
    assert upsampler.replayed.captured() == []


@needs_gpu
def test_what_waits_for_the_gpu_is_called_plainly() -> None:
    calls = ReplayedCalls(lambda x: x * float(x.sum()), lambda: [])
    with torch.no_grad():
        for i in range(NEEDED + 2):
            assert calls((torch.full((2,), float(i), device="cuda"),)).tolist() == [2.0 * i * i] * 2
    assert calls.captured() == [False]
