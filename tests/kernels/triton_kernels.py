"""Tests of the Triton kernels, on small shapes that reach every branch.

Not collected by itself: `test_triton.py` runs it in a process whose Triton interprets its kernels on the CPU. On a GPU:
pytest tests/kernels/triton_kernels.py --device cuda
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from featup_kernels import adaptive_conv, resampled_conv
from featup_kernels.resampled_conv.axis import Axis, window_axis
from featup_kernels.resampled_conv.op import resampled_conv_runs_fused

from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.stack import filter_band, window_rows
from featup_cli.upsamplers.jbu.stage import Band
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler
from tests.kernels.cases import DTYPES, Case, assert_matches_reference
from tests.kernels.test_resampled_conv import exact, make
from tests.tolerances import assert_close

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
ONE_OF_EACH = [case for case in CASES if (case.batch, case.channels, case.window) == (2, 3, 3)]


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


# As in test_resampled_conv.py: batch, channels, source, output, window, and cells that a row reads.
RESAMPLED = [
    (1, 1, (1, 1), (1, 1), 1, 1),
    (2, 3, (4, 5), (6, 7), 3, 4),
    (2, 18, (2, 3), (3, 47), 3, 2),  # several programs, and images that meet within one
    (1, 2, (6, 9), (4, 6), 5, 1),  # windows span more cells than a thread has weights for
    (1, 3, (12, 9), (4, 3), 3, 4),  # smaller than the source
    (1, 40, (2, 3), (3, 5), 3, 4),  # several programs share the channels
    (1, 2, (4, 4), (130, 3), 1, 3),
    (1, 1, (3, 9), (3, 5), 9, 2),  # a wide window, of which weights are made again and again
    (1, 1, (2, 3), (3, 2), 7, 3),  # smaller than the window
]


@pytest.mark.parametrize("case", RESAMPLED, ids=str)
def test_resampled_conv_matches_reference(case: tuple, device: str) -> None:
    inputs = make(case)
    source, taps, rows, columns = (_to(x, device) for x in inputs)
    out = resampled_conv(source, taps, rows, columns, backend="triton")
    assert_close(out, exact(*inputs), torch.float32, "out")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resampled_conv_matches_reference_in_every_dtype(dtype: torch.dtype, device: str) -> None:
    inputs = make(RESAMPLED[1], dtype)
    source, taps, rows, columns = (_to(x, device) for x in inputs)
    out = resampled_conv(source, taps, rows, columns, backend="triton")
    assert out.dtype == dtype
    assert_close(out, exact(*inputs), dtype, "out")


def test_resampled_conv_is_resizing_padding_and_filtering(device: str) -> None:
    source, taps = torch.randn(1, 2, 5, 8, device=device), torch.rand(1, 49, 10, 16, device=device)
    fine = F.pad(F.interpolate(source, size=(10, 16), mode="bicubic"), (3,) * 4, mode="reflect")
    axes = [window_axis("bicubic", (10, 16), dim, 3, (5, 8)[dim], source) for dim in (0, 1)]
    out = resampled_conv(source, taps, *axes, backend="triton")
    assert_close(out, adaptive_conv(fine.double(), taps.double(), backend="reference").cpu(), torch.float32, "out")


def test_resampled_conv_shows_cells_that_the_source_does_not_have(device: str) -> None:
    """The operator checks cells on the CPU only; the kernel reads no memory but the source's."""
    source, taps, rows, columns = (_to(x, device) for x in make((1, 1, (4, 3), (5, 4), 3, 2)))
    for bad in (-1, 4, 2**40):
        cells = rows.cells.clone()
        cells[6, 1] = bad  # the last place, which windows of the last row alone see
        out = torch.ops.featup.resampled_conv(source, taps, cells, rows.weights, *columns, "triton")
        assert out[:, :, 4].isnan().all()
        assert out[:, :, :4].isfinite().all()


def test_resampled_conv_runs_fused_where_triton_does(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setenv("FEATUP_KERNELS", "triton")
    source, taps, rows, columns = (_to(x, device) for x in make(RESAMPLED[1]))
    assert resampled_conv_runs_fused(source, taps)
    assert not resampled_conv_runs_fused(source.clone().requires_grad_(), taps)
    assert resampled_conv(source, taps.clone().requires_grad_(), rows, columns).requires_grad


def test_resampled_conv_addresses_do_not_overflow(device: str) -> None:
    """As above, for taps and an output that are large while the source is small."""
    side = 20 if device == "cpu" else 16384
    source = torch.randn(1, 1, 4, 5, device=device, dtype=torch.float16)
    taps = torch.randn(1, 9, side, side, device=device, dtype=torch.float16)
    rows, columns = (
        Axis(torch.randint(0, cells, (side + 2, 2), device=device), torch.rand(side + 2, 2, device=device))
        for cells in (4, 5)
    )
    out = resampled_conv(source, taps, rows, columns, backend="triton")
    last_rows = Axis(rows.cells[-6:], rows.weights[-6:])
    last = resampled_conv(source, taps[:, :, -4:], last_rows, columns, backend="reference")
    torch.testing.assert_close(out[:, :, -4:], last, rtol=4e-3, atol=4e-3)


def test_jbu_is_that_of_the_reference(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = JBUUpsampler(JBUConfig(radius=1, key_size=4)).to(device).eval()
    image, feats = torch.rand(1, 3, 9, 8, device=device), torch.randn(1, 2, 3, 3, device=device)
    outputs = []
    for backend in ("triton", "reference"):
        monkeypatch.setenv("FEATUP_KERNELS", backend)
        with torch.no_grad():
            outputs.append(model(image, feats, (9, 8)))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_a_band_of_a_stage_is_its_rows(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, taps = torch.randn(1, 2, 6, 5, device=device), torch.rand(1, 9, 12, 9, device=device)
    fine = F.pad(F.interpolate(source, size=(12, 9), mode="bicubic"), (1,) * 4, mode="reflect")
    for top, bottom in ((0, 3), (4, 9), (9, 12)):
        band = Band((12, 9), top, bottom, 1)
        rows, seen = window_rows("bicubic", band, 6, source)
        monkeypatch.setenv("FEATUP_KERNELS", "triton")
        out = filter_band(source[:, :, seen], taps[:, :, top:bottom], "bicubic", band, rows)
        expected = adaptive_conv(fine, taps, backend="reference")[:, :, top:bottom]
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def _to(value: Any, device: str) -> Any:
    return Axis(*(x.to(device) for x in value)) if isinstance(value, Axis) else value.to(device)
