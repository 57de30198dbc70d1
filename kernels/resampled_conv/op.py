"""Checks, registration and dispatch of `resampled_conv`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from featup_kernels.checks import check_rank, check_same_kind, window_side, zeros_of
from featup_kernels.dispatch import BackendError, choose_backend
from featup_kernels.registration import implementation, register
from featup_kernels.resampled_conv.reference import resampled_conv_reference
from torch import Tensor


class Axis(NamedTuple):
    """What each place along an axis reads: the sum of `weights` [n, T] times the cells of the source, int64 [n, T].

    T may be 1 (nearest), 2 (linear), 4 (cubic) or any other number.
    """

    cells: Tensor
    weights: Tensor


def resampled_conv(source: Tensor, taps: Tensor, rows: Axis, columns: Axis, *, backend: str = "auto") -> Tensor:
    """Filter every pixel with its own k x k weights, on a source that is resampled and padded on the way.

    out[b, c, y, x] = sum over t of taps[b, t, y, x] * fine[b, c, y + t // k, x + t % k], where
    fine[b, c, i, j] = sum over p, q of rows.weights[i, p] * columns.weights[j, q]
                       * source[b, c, rows.cells[i, p], columns.cells[j, q]]

    is never materialised. Cells may come in any order, so that padding is a matter of indices.

    Args:
        source: [B, C, h, w].
        taps: [B, k * k, H, W], k odd, used as given: not normalised here.
        rows: of the H + k - 1 rows that the windows see.
        columns: of their W + k - 1 columns.
        backend: "auto", "cpu", which can't be differentiated, or "reference", which can.
    Returns:
        [B, C, H, W] in the dtype of `source`; half types are summed in float32.
    Raises:
        ValueError: shapes, dtypes, devices or cells that don't fit; the message says what was expected and what came.
        BackendError: the named backend can't run.

    Source: a stage of FeatUp's joint bilateral stack, section 3.2: bicubic resizing, then equation 4.
    """
    check_rank(source=source, taps=taps)
    check_same_kind(source=source, taps=taps)
    k = window_side(taps)
    if source.shape[0] != taps.shape[0]:
        raise ValueError(f"source must be [{taps.shape[0]}, C, h, w] as taps, not {list(source.shape)}")
    for name, axis, size, cells in (
        ("rows", rows, taps.shape[2] + k - 1, source.shape[2]),
        ("columns", columns, taps.shape[3] + k - 1, source.shape[3]),
    ):
        _check_axis(name, axis, size, cells)
    fused = resampled_conv_runs_fused(source, taps)
    if backend == "auto":
        backend = "cpu" if fused else "reference"
    if choose_backend("resampled_conv", backend, source.device.type, source.dtype) == "triton":
        raise BackendError("resampled_conv: has no triton kernel; resize the source and use adaptive_conv")
    if source.numel() == 0 or taps.numel() == 0:
        return zeros_of((*source.shape[:2], *taps.shape[2:]), source, taps)
    if backend == "cpu":
        if not fused:
            raise BackendError("resampled_conv: backend 'cpu' has no gradient; use 'reference' or torch.no_grad()")
        return _resampled_conv(source, taps, *rows, *columns)
    return resampled_conv_reference(source, taps, *rows, *columns)


def resampled_conv_runs_fused(source: Tensor, taps: Tensor) -> bool:
    """Whether a kernel runs: on a CPU, without gradients. Where none does, resizing first is as good."""
    differentiated = torch.is_grad_enabled() and (source.requires_grad or taps.requires_grad)
    return not differentiated and choose_backend("resampled_conv", "auto", source.device.type, source.dtype) == "cpu"


def _check_axis(name: str, axis: Axis, size: int, cells: int) -> None:
    if axis.cells.shape != axis.weights.shape or axis.cells.ndim != 2 or len(axis.cells) != size:
        raise ValueError(
            f"{name} must have cells and weights [{size}, T], not {list(axis.cells.shape)}, {list(axis.weights.shape)}"
        )
    if torch.compiler.is_compiling() or not axis.cells.numel():
        return
    low, high = (int(value) for value in axis.cells.aminmax())
    if low < 0 or high >= cells:
        raise ValueError(f"{name} must read cells 0 to {cells - 1}, not {low} to {high}")


def _kernel(
    source: Tensor, taps: Tensor, row_cells: Tensor, row_weights: Tensor, column_cells: Tensor, column_weights: Tensor
) -> Tensor:
    axes = (t.contiguous() for t in (row_cells, row_weights, column_cells, column_weights))
    return implementation("resampled_conv", "cpu").forward(source.contiguous(), taps.contiguous(), *axes)


def _fake(source: Tensor, taps: Tensor, *axes: Tensor) -> Tensor:
    return source.new_empty(source.shape[0], source.shape[1], taps.shape[2], taps.shape[3])


_resampled_conv = register(
    "resampled_conv(Tensor source, Tensor taps, Tensor row_cells, Tensor row_weights, Tensor column_cells, "
    "Tensor column_weights) -> Tensor",
    _kernel, _fake, None,
)  # fmt: skip
