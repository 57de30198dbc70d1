"""`resampled_conv`: a filter on a source that is resized while it is read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from featup_kernels import BackendError, adaptive_conv, resampled_conv
from featup_kernels.resampled_conv.axis import Axis
from featup_kernels.resampled_conv.op import resampled_conv_runs_fused
from torch import Tensor

from tests.kernels.cases import DTYPES, LAYOUTS, with_layout
from tests.tolerances import assert_close

# Batch, channels, source, output, window, and cells that a place reads.
CASES = [
    (2, 3, (4, 5), (8, 63), 7, 4),
    (1, 1, (3, 3), (5, 4), 3, 2),
    (1, 5, (9, 14), (9, 14), 5, 1),
    (1, 9, (40, 3), (70, 3), 3, 4),
    (1, 6, (2, 70), (2, 150), 3, 4),
    (1, 2, (30, 40), (4, 3), 5, 4),  # smaller than the source
    (3, 2, (1, 1), (1, 1), 1, 3),
]


def random_axis(size: int, cells: int, terms: int) -> Axis:
    return Axis(torch.randint(0, cells, (size, terms)), torch.randn(size, terms))


def make(case: tuple, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Axis, Axis]:
    batch, channels, lr_size, (height, width), k, terms = case
    source, taps = torch.randn(batch, channels, *lr_size), torch.randn(batch, k * k, height, width)
    rows, columns = random_axis(height + k - 1, lr_size[0], terms), random_axis(width + k - 1, lr_size[1], 3)
    return source.to(dtype), taps.to(dtype), rows, columns


def exact(source: Tensor, taps: Tensor, rows: Axis, columns: Axis) -> Tensor:
    return resampled_conv(source.double(), taps.double(), rows, columns, backend="reference")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_is_the_reference(case: tuple, dtype: torch.dtype) -> None:
    inputs = make(case, dtype)
    out = resampled_conv(*inputs, backend="cpu")
    assert out.dtype == dtype
    assert_close(out, exact(*inputs), dtype, "out")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_is_read(layout: str) -> None:
    source, taps, rows, columns = make(CASES[0])
    inputs = with_layout(source, layout), with_layout(taps, layout), rows, columns
    assert_close(resampled_conv(*inputs, backend="cpu"), exact(*inputs), torch.float32, "out")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bicubic_resizing_and_padding_come_before_the_filter(backend: str) -> None:
    source, taps = torch.randn(1, 6, 9, 11).double(), torch.rand(1, 25, 18, 22).double()
    fine = F.pad(F.interpolate(source, size=(18, 22), mode="bicubic"), (2,) * 4, mode="reflect")
    axes = []
    for size in (18, 22):
        # What becomes of each cell is a column of the matrix of weights.
        cells = torch.eye(size // 2).double()[None, None]
        weights = F.interpolate(cells, size=(size // 2, size), mode="bicubic")[0, 0].T
        places = torch.arange(-2, size + 2).abs()
        places = size - 1 - (size - 1 - places).abs()
        axes.append(Axis(torch.arange(size // 2).expand(size + 4, -1), weights[places]))
    assert_close(resampled_conv(source, taps, *axes, backend=backend), adaptive_conv(fine, taps), torch.float64, "out")


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs = make((2, 21, (20, 30), (41, 260), 7, 4))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(resampled_conv(*inputs, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_gradients_come_from_the_reference_alone() -> None:
    source, taps, rows, columns = make(CASES[1], torch.float64)
    taps.requires_grad_()
    assert not resampled_conv_runs_fused(source, taps)
    assert torch.autograd.gradcheck(lambda t: resampled_conv(source, t, rows, columns), taps)
    with pytest.raises(BackendError, match="has no gradient"):
        resampled_conv(source, taps, rows, columns, backend="cpu")
    with torch.no_grad():
        assert resampled_conv_runs_fused(source, taps)
        resampled_conv(source, taps, rows, columns, backend="cpu")


def test_nothing_to_filter_gives_nothing() -> None:
    source, taps, rows, columns = make(CASES[0])
    assert resampled_conv(source[:, :0], taps, rows, columns).shape == (2, 0, 8, 63)


def test_the_operator_can_be_traced() -> None:
    source, taps, rows, columns = make(CASES[0])
    torch.library.opcheck(
        torch.ops.featup.resampled_conv,
        (source, taps, *rows, *columns, "cpu"),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_arguments_that_do_not_fit_are_refused() -> None:
    source, taps, rows, columns = make(CASES[0])
    for bad, message in (
        ((source[:1], taps, rows, columns), r"source must be \[2, C, h, w\]"),
        ((source, taps[:, :48], rows, columns), "k odd"),
        ((source.half(), taps, rows, columns), "share dtype"),
        ((source, taps, Axis(rows.cells[1:], rows.weights), columns), r"rows must have cells and weights \[14, T\]"),
        ((source, taps, rows, Axis(columns.cells + 5, columns.weights)), "columns must read cells 0 to 4"),
        ((source, taps, Axis(rows.cells - 1, rows.weights), columns), "rows must read cells 0 to 3, not -1"),
        ((source, taps, Axis(rows.cells.to("meta"), rows.weights), columns), "rows must be on cpu, not meta and cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            resampled_conv(*bad)


def test_the_gpu_kernel_does_not_run_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="can't run"):
        resampled_conv(*make(CASES[0]), backend="triton")


def test_a_default_backend_without_a_kernel_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    source, taps, _, _ = make(CASES[0])
    assert resampled_conv_runs_fused(source, taps)
    monkeypatch.setenv("FEATUP_KERNELS", "reference")
    assert not resampled_conv_runs_fused(source, taps)
