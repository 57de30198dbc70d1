from __future__ import annotations

import copy
import importlib
import math

import pytest
import torch
from torch import nn

from featup_cli.multiview.optimize import WeightAverage, make_optimizer, set_learning_rate, warm_cosine

RATE, STEPS = 5e-3, 40


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return network, torch.randn(32, 6, generator=generator), torch.randn(32, 3, generator=generator)


def descend(network: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    for step in range(1, STEPS + 1):
        set_learning_rate(optimizer, RATE * warm_cosine(step, STEPS, 5))
        optimizer.zero_grad(set_to_none=True)
        (network(x) - y).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["adamw", "nadam"])
def test_state_on_the_device_gives_the_steps_of_floats(
    kind: str, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PyTorch keeps state so on GPUs only; the arithmetic is the same on a CPU.
    for name in ("adam", "adamw", "nadam"):
        module = importlib.import_module(f"torch.optim.{name}")
        monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda **_: ["cpu"], raising=False)
    plain, x, y = problem()
    start, other = copy.deepcopy(plain.state_dict()), copy.deepcopy(plain)
    floats = make_optimizer(kind, [{"params": plain.parameters(), "lr": RATE}], decay)
    tensors = make_optimizer(kind, [{"params": other.parameters(), "lr": RATE}], decay, capturable=True)
    rate = tensors.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor)
    descend(plain, floats, x, y)
    descend(other, tensors, x, y)
    assert tensors.param_groups[0]["lr"] is rate, "a graph would read the old one"
    assert float(rate) == pytest.approx(floats.param_groups[0]["lr"])
    for name, value in plain.state_dict().items():
        assert not torch.equal(value, start[name])
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("kind", "cls"), [("adamw", torch.optim.AdamW), ("nadam", torch.optim.NAdam)])
def test_weight_decay_is_decoupled_from_the_gradient(kind: str, cls: type) -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer(kind, [{"params": [weight], "lr": 0.1}], weight_decay=0.5)
    assert isinstance(optimizer, cls)
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(0.95)


def test_the_average_is_exponential_and_starts_at_the_first_update() -> None:
    layer = nn.Linear(2, 2)
    average = WeightAverage(layer, 0.9)
    seen, expected = [], torch.zeros(2, 2)
    for step in range(5):
        with torch.no_grad():
            layer.weight.add_(step + 1)
        average.update()
        seen.append(layer.weight.detach().clone())
        expected = seen[0] if step == 0 else 0.9 * expected + 0.1 * seen[-1]
        module = average.module
        assert isinstance(module, nn.Linear)
        torch.testing.assert_close(module.weight.detach(), expected)
    assert not torch.equal(seen[0], seen[-1])


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [warm_cosine(step, 100, 10) for step in range(1, 101)]
    peak = rates.index(max(rates))
    assert rates[0] == 0.1
    assert 8 <= peak <= 10
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert math.isclose(warm_cosine(1, 5, 0), 1)
