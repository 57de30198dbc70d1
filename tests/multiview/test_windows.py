from __future__ import annotations

import pytest
import torch

from featup_cli.multiview.optimize import make_optimizer, warm_cosine
from featup_cli.multiview.windows import half_window, lattice_offsets, stratified_offsets, window_positions


def test_offsets_are_stratified() -> None:
    offsets = stratified_offsets(50, 16, torch.Generator().manual_seed(0))
    cells = ((offsets + 1) * 2).floor().long()
    assert cells.min() == 0
    assert cells.max() == 3
    assert all(len({tuple(c) for c in token.tolist()}) == 16 for token in cells)


def test_windows_surround_their_tokens_and_are_mirrored_at_the_border() -> None:
    half = torch.tensor(half_window(32, 16, (64, 128)))
    assert half.tolist() == [0.25, 0.125]
    offsets = torch.tensor([[0.0, 0.0], [1.0, -1.0]]).expand(2, -1, -1)
    positions = window_positions(torch.tensor([1, 3]), torch.tensor([2, 0]), offsets, (4, 8), half)
    expected = [[[0.375, 0.3125], [0.625, 0.1875]], [[0.875, 0.0625], [0.875, 0.0625]]]
    torch.testing.assert_close(positions, torch.tensor(expected))


def test_a_lattice_is_centred() -> None:
    offsets = lattice_offsets(9, torch.device("cpu"))
    assert offsets.shape == (9, 2)
    torch.testing.assert_close(offsets, -offsets.flip(0))
    assert float(offsets.max()) == pytest.approx(2 / 3)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [warm_cosine(step, 100, 10) for step in range(1, 101)]
    peak = rates.index(max(rates))
    assert rates[0] == 0.1
    assert 8 <= peak <= 10
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert warm_cosine(1, 5, 0) == 1


@pytest.mark.parametrize(("kind", "cls"), [("adamw", torch.optim.AdamW), ("nadam", torch.optim.NAdam)])
def test_weight_decay_is_decoupled_from_the_gradient(kind: str, cls: type) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = make_optimizer(kind, [{"params": [weight], "lr": 0.1}], weight_decay=0.5)
    assert isinstance(optimizer, cls)
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(0.95)
