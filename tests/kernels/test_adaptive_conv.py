from __future__ import annotations

import pytest
import torch
from featup_kernels import adaptive_conv


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
def test_reference_matches_a_loop_over_pixels(channels: int, size: tuple[int, int], k: int) -> None:
    source = torch.randn(2, channels, size[0] + k - 1, size[1] + k - 1, dtype=torch.float64)
    taps = torch.randn(2, k * k, *size, dtype=torch.float64)
    torch.testing.assert_close(adaptive_conv(source, taps, backend="reference"), loop_over_pixels(source, taps))


def test_identity_taps_return_the_centre_crop(backend: str, device: str) -> None:
    source = torch.randn(1, 2, 8, 9, device=device)
    taps = torch.zeros(1, 9, 6, 7, device=device)
    taps[:, 4] = 1
    assert torch.equal(adaptive_conv(source, taps, backend=backend), source[:, :, 1:-1, 1:-1])


def test_normalised_taps_keep_a_constant(backend: str, device: str) -> None:
    taps = torch.randn(2, 25, 6, 7, device=device).softmax(1)
    out = adaptive_conv(torch.full((2, 3, 10, 11), 5.0, device=device), taps, backend=backend)
    torch.testing.assert_close(out, torch.full_like(out, 5))


def test_half_precision_is_summed_in_float32(backend: str, device: str) -> None:
    source = torch.ones(1, 1, 47, 47, dtype=torch.float16, device=device)
    taps = torch.full((1, 45 * 45, 3, 3), 2.0, dtype=torch.float16, device=device)
    out = adaptive_conv(source, taps, backend=backend)
    assert out.unique().tolist() == [4050.0]  # summed in float16 it would round at every step


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


def test_rejects_mixed_devices() -> None:
    with pytest.raises(ValueError, match=r"share dtype and device, not source .* on cpu, taps .* on meta"):
        adaptive_conv(torch.zeros(1, 1, 3, 3), torch.zeros(1, 9, 1, 1, device="meta"))


def test_rejects_whole_numbers() -> None:
    with pytest.raises(ValueError, match=r"source must be floating point, not torch\.int64"):
        adaptive_conv(torch.zeros(1, 1, 3, 3, dtype=torch.int64), torch.zeros(1, 9, 1, 1, dtype=torch.int64))
