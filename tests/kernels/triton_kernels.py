"""Tests of the Triton kernels, on small shapes that reach every branch.

Not collected by itself: `test_triton.py` runs it in a process whose Triton interprets its kernels on the CPU. On a GPU:
pytest tests/kernels/triton_kernels.py --device cuda
"""

from __future__ import annotations

import pytest
import torch
from featup_kernels import adaptive_conv

from tests.kernels.cases import DTYPES, Case, assert_matches_reference

# Outputs that a kernel leaves unwritten are NaN.
pytestmark = pytest.mark.usefixtures("poisoned_memory")

CASES = [
    Case("adaptive_conv", 1, 1, 1, 1, 1),
    Case("adaptive_conv", 2, 3, 5, 9, 3),
    Case("adaptive_conv", 1, 2, 2, 3, 7),  # smaller than the window
    Case("adaptive_conv", 2, 18, 3, 47, 3),  # several programs, and images that meet within one
    Case("adaptive_conv", 1, 9, 6, 5, 5),
    Case("adaptive_conv", 1, 2, 3, 5, 9),  # a window too wide to unroll
    Case("adaptive_conv", 1, 70, 3, 2, 3),  # warps share the channels
    Case("adaptive_conv", 1, 260, 2, 3, 3),  # and more of them
    Case("neighbor_mix", 1, 1, 1, 1, 1, (1, 1)),
    Case("neighbor_mix", 2, 3, 9, 13, 3, (2, 3)),  # four rows of a thread in two cells
    Case("neighbor_mix", 1, 2, 7, 5, 3, (3, 2)),  # two rows of a thread
    Case("neighbor_mix", 1, 2, 4, 3, 3, (9, 7)),  # downsampling
    Case("neighbor_mix", 1, 2, 3, 140, 1, (1, 2)),  # several strips
    Case("neighbor_mix", 1, 1, 3, 21, 3, (2, 17)),  # several blocks of low-resolution columns
    Case("neighbor_mix", 1, 2, 4, 6, 5, (3, 2)),
    Case("neighbor_mix", 1, 1, 3, 4, 7, (2, 1)),  # smaller than the window
    Case("neighbor_mix", 1, 1, 2, 5, 9, (2, 3)),  # a window too wide to unroll
    Case("neighbor_mix", 1, 66, 3, 2, 3, (1, 2)),  # warps share the channels
    Case("range_taps", 1, 1, 1, 1, 1),
    Case("range_taps", 2, 3, 5, 9, 3),
    Case("range_taps", 2, 10, 3, 67, 3),  # several programs, and images that meet within one
    Case("range_taps", 1, 2, 6, 5, 5),
    Case("range_taps", 1, 2, 2, 3, 7),  # smaller than the window
    Case("range_taps", 1, 2, 3, 5, 9),  # a window too wide to unroll
]
ONE_OF_EACH = [case for case in CASES if (case.batch, case.channels, case.k) == (2, 3, 3)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: Case, device: str) -> None:
    assert_matches_reference(case, "triton", device=device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: f"{case.operation}-{case}")
def test_matches_reference_in_every_dtype(case: Case, dtype: torch.dtype, device: str) -> None:
    assert_matches_reference(case, "triton", dtype, device)


def test_addresses_do_not_overflow(device: str) -> None:
    """The last rows of a large problem are those of a small one; on a GPU the taps have more than 2^31 elements."""
    side = 20 if device == "cpu" else 16384
    source = torch.randn(1, 1, side + 2, side + 2, device=device, dtype=torch.float16, requires_grad=True)
    taps = torch.randn(1, 9, side, side, device=device, dtype=torch.float16, requires_grad=True)
    last_source = source.detach()[:, :, -6:].requires_grad_()
    last_taps = taps.detach()[:, :, -4:].requires_grad_()

    out = adaptive_conv(source, taps, backend="triton")
    last_out = adaptive_conv(last_source, last_taps, backend="reference")
    torch.testing.assert_close(out[:, :, -4:], last_out, rtol=2e-3, atol=2e-3)
    d_out = torch.randn_like(out)
    d_source, d_taps = torch.autograd.grad(out, (source, taps), d_out)
    last_d_source, last_d_taps = torch.autograd.grad(last_out, (last_source, last_taps), d_out[:, :, -4:])
    torch.testing.assert_close(d_taps[:, :, -4:], last_d_taps, rtol=2e-3, atol=2e-3)
    # The rows above gather from output rows that the small problem does not have.
    torch.testing.assert_close(d_source[:, :, -4:], last_d_source[:, :, -4:], rtol=2e-3, atol=2e-3)
