from __future__ import annotations

import pytest
import torch
from featup_kernels import BackendError, adaptive_conv, backends


def loop_over_pixels(source: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    batch, tap_count, height, width = taps.shape
    k = int(tap_count**0.5)
    out = source.new_zeros(batch, source.shape[1], height, width)
    for y in range(height):
        for x in range(width):
            for t in range(tap_count):
                out[:, :, y, x] += taps[:, t, y, x, None] * source[:, :, y + t // k, x + t % k]
    return out


@pytest.mark.parametrize(("channels", "size", "k"), [(1, (4, 7), 3), (3, (5, 4), 5), (2, (1, 1), 1)])
def test_matches_a_loop_over_pixels(channels: int, size: tuple[int, int], k: int) -> None:
    source = torch.randn(2, channels, size[0] + k - 1, size[1] + k - 1, dtype=torch.float64)
    taps = torch.randn(2, k * k, *size, dtype=torch.float64)
    torch.testing.assert_close(adaptive_conv(source, taps), loop_over_pixels(source, taps))


def test_identity_taps_return_the_centre_crop() -> None:
    source = torch.randn(1, 2, 8, 9)
    taps = torch.zeros(1, 9, 6, 7)
    taps[:, 4] = 1
    torch.testing.assert_close(adaptive_conv(source, taps), source[:, :, 1:-1, 1:-1])


def test_gradients_are_right_to_second_order_and_at_borders() -> None:
    source = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    taps = torch.randn(1, 9, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(adaptive_conv, (source, taps))
    assert torch.autograd.gradgradcheck(adaptive_conv, (source, taps))


def test_half_precision_is_summed_in_float32() -> None:
    source = torch.ones(1, 1, 47, 47, dtype=torch.float16)
    taps = torch.full((1, 45 * 45, 3, 3), 2.0, dtype=torch.float16)
    assert adaptive_conv(source, taps).unique().tolist() == [4050.0]  # summed in float16 it would round at every step


@pytest.mark.parametrize(
    ("source", "taps", "message"),
    [
        ((1, 2, 6, 7), (1, 8, 4, 5), "k odd"),
        ((1, 2, 6, 7), (1, 16, 4, 5), "k odd"),
        ((1, 2, 4, 5), (1, 9, 4, 5), r"\[1, C, 6, 7\]"),
        ((2, 6, 7), (1, 9, 4, 5), "4-D"),
        ((2, 2, 6, 7), (1, 9, 4, 5), r"\[1, C, 6, 7\]"),
    ],
)
def test_rejects_shapes_that_do_not_fit(source: tuple[int, ...], taps: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adaptive_conv(torch.zeros(source), torch.zeros(taps))


def test_rejects_mixed_dtypes() -> None:
    with pytest.raises(ValueError, match="share dtype"):
        adaptive_conv(torch.zeros(1, 1, 3, 3), torch.zeros(1, 9, 1, 1, dtype=torch.float64))


def test_a_backend_asked_for_by_name_never_falls_back() -> None:
    with pytest.raises(BackendError, match="available: reference"):
        adaptive_conv(torch.zeros(1, 1, 3, 3), torch.zeros(1, 9, 1, 1), backend="triton")


def test_backends_say_what_can_run() -> None:
    assert [(s.operation, s.backend, s.why_not) for s in backends()] == [("adaptive_conv", "reference", None)]
