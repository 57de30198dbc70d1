from __future__ import annotations

import math

import pytest
import torch
from featup_kernels import range_taps


def test_reference_matches_the_formula_at_a_pixel() -> None:
    keys = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    taps = range_taps(keys, 1, 0.7, 0.8, backend="reference")
    y, x = 2, 3
    weights = [
        math.exp(0.7 * float(keys[0, :, y + 1, x + 1] @ keys[0, :, y + 1 + dy, x + 1 + dx]))
        * math.exp(-(dy**2 + dx**2) / (2 * 0.8**2))
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    torch.testing.assert_close(taps[0, :, y, x], torch.tensor(weights, dtype=torch.float64) / sum(weights))


def test_taps_sum_to_one(backend: str, device: str) -> None:
    taps = range_taps(torch.randn(2, 5, 9, 11, device=device), 2, 1.5, 0.5, backend=backend)
    torch.testing.assert_close(taps.sum(1), torch.ones(2, 5, 7, device=device))


def test_equal_keys_leave_the_spatial_gaussian(backend: str, device: str) -> None:
    taps = range_taps(torch.ones(1, 2, 5, 6, device=device), 1, 1.0, 0.5, backend=backend)
    gaussian = torch.tensor([math.exp(-(dy**2 + dx**2) / 0.5) for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    expected = (gaussian / gaussian.sum()).to(device)[:, None, None].expand(9, 3, 4)
    torch.testing.assert_close(taps[0], expected)


def test_large_scores_do_not_overflow(backend: str, device: str) -> None:
    taps = range_taps(torch.randn(1, 4, 5, 6, device=device) * 100, 1, 1.0, 0.5, backend=backend)
    torch.testing.assert_close(taps.sum(1), torch.ones(1, 3, 4, device=device))


def test_radius_zero_gives_ones(backend: str, device: str) -> None:
    taps = range_taps(torch.randn(1, 3, 4, 5, device=device), 0, 1.0, 1.0, backend=backend)
    assert torch.equal(taps, torch.ones(1, 1, 4, 5, device=device))


@pytest.mark.parametrize(
    ("keys", "radius", "message"),
    [
        ((3, 6, 7), 1, "4-D"),
        ((1, 3, 6, 7), -1, "radius must be at least 0"),
        ((1, 3, 4, 7), 2, r"keys must be \[B, D, H \+ 4, W \+ 4\]"),
    ],
)
def test_rejects_what_does_not_fit(keys: tuple[int, ...], radius: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        range_taps(torch.zeros(keys), radius, 1.0, 1.0)


def test_rejects_a_temperature_per_channel() -> None:
    with pytest.raises(ValueError, match="must be scalars"):
        range_taps(torch.zeros(1, 3, 6, 7), 1, torch.ones(3), 1.0)
