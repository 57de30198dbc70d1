from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from featup_kernels import neighbor_mix


def centre_taps(k: int, *size: int, device: str) -> torch.Tensor:
    taps = torch.zeros(1, k * k, *size, device=device, dtype=torch.float64)
    taps[:, k * k // 2] = 1
    return taps


@pytest.mark.parametrize("size", [(10, 12), (7, 11), (2, 3)])
def test_the_centre_tap_alone_is_bilinear_upsampling(size: tuple[int, int], backend: str, device: str) -> None:
    source = torch.randn(1, 2, 5, 6, device=device, dtype=torch.float64)
    out = neighbor_mix(source, centre_taps(3, *size, device=device), backend=backend)
    expected = F.interpolate(source, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(out, expected)


def test_neighbours_are_one_low_resolution_pixel_apart(backend: str, device: str) -> None:
    source = torch.arange(8.0, device=device).expand(1, 1, 6, 8)  # a ramp: its value is the position
    taps = torch.zeros(1, 9, 12, 16, device=device)
    taps[:, 5] = 1  # the neighbour on the right
    out = neighbor_mix(source, taps, backend=backend)
    columns = (torch.arange(16.0, device=device) + 0.5) / 2 - 0.5
    torch.testing.assert_close(out, (columns + 1).clamp(max=7).expand(1, 1, 12, 16))


def test_normalised_taps_keep_a_constant(backend: str, device: str) -> None:
    taps = torch.randn(2, 25, 6, 7, device=device).softmax(1)
    out = neighbor_mix(torch.full((2, 3, 2, 3), 5.0, device=device), taps, backend=backend)
    torch.testing.assert_close(out, torch.full_like(out, 5))


@pytest.mark.parametrize(
    ("source", "taps", "size", "message"),
    [
        ((1, 2, 3, 4), (1, 8, 6, 8), None, "k odd"),
        ((2, 3, 4), (1, 9, 6, 8), None, "4-D"),
        ((2, 2, 3, 4), (1, 9, 6, 8), None, r"lr_source must be \[1, C, h, w\]"),
        ((1, 2, 0, 4), (1, 9, 6, 8), None, "at least one pixel"),
        ((1, 2, 3, 4), (1, 9, 6, 8), (6, 9), r"taps must be \[B, k \* k, 6, 9\]"),
    ],
)
def test_rejects_shapes_that_do_not_fit(
    source: tuple[int, ...], taps: tuple[int, ...], size: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        neighbor_mix(torch.zeros(source), torch.zeros(taps), size)
