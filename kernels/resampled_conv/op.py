"""Checks, registration and dispatch of `resampled_conv`."""

from __future__ import annotations

from typing import Any

import torch
from featup_kernels.checks import check_rank, check_same_kind, window_side, zeros_of
from featup_kernels.dispatch import BackendError, choose_backend
from featup_kernels.registration import implementation, register
from featup_kernels.resampled_conv.axis import Axis
from featup_kernels.resampled_conv.reference import resampled_conv_reference
from torch import Tensor


def resampled_conv(source: Tensor, taps: Tensor, rows: Axis, columns: Axis, *, backend: str = "auto") -> Tensor:
    """Filter every pixel with its own k x k weights, on a source that is resampled and padded on the way.

    out[b, c, y, x] = sum over t of taps[b, t, y, x] * fine[b, c, y + t // k, x + t % k], where
    fine[b, c, i, j] = sum over p, q of rows.weights[i, p] * columns.weights[j, q]
                       * source[b, c, rows.cells[i, p], columns.cells[j, q]]

    is never materialised. Cells may come in any order, so padding is a choice of indices. Only cells in CPU
    memory are checked: on "triton" a cell outside the source gives NaN.

    Args:
        source: [B, C, h, w].
        taps: [B, k * k, H, W], k odd, used as given: not normalised here.
        rows: axis of the H + k - 1 rows that the windows see.
        columns: axis of their W + k - 1 columns.
        backend: "auto" takes the first that can run, or "reference" if gradients are needed: the others have none. A
            named one raises if it can't run.
    Returns:
        [B, C, H, W] in the dtype of `source`; half types are summed in float32.
    Raises:
        ValueError: shapes, dtypes, devices or cells that don't fit; the message gives the expected and the actual ones.
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
        _check_axis(name, axis, size, cells, source.device)
    differentiated = _differentiated(source, taps)
    chosen = choose_backend("resampled_conv", backend, source.device.type, source.dtype)
    if backend == "auto" and differentiated:
        chosen = "reference"
    if source.numel() == 0 or taps.numel() == 0:
        return zeros_of((*source.shape[:2], *taps.shape[2:]), source, taps)
    if chosen == "reference":
        return resampled_conv_reference(source, taps, *rows, *columns)
    if differentiated:
        raise BackendError(f"resampled_conv: backend {chosen!r} has no gradient; use 'reference' or torch.no_grad()")
    return _resampled_conv(source, taps, *rows, *columns, chosen)


def resampled_conv_runs_fused(source: Tensor, taps: Tensor) -> bool:
    """Whether "auto" runs a kernel, which it does without gradients only. Otherwise resizing first costs no more."""
    chosen = choose_backend("resampled_conv", "auto", source.device.type, source.dtype)
    return chosen != "reference" and not _differentiated(source, taps)


def _differentiated(source: Tensor, taps: Tensor) -> bool:
    return torch.is_grad_enabled() and (source.requires_grad or taps.requires_grad)


def _check_axis(name: str, axis: Axis, size: int, cells: int, device: torch.device) -> None:
    if axis.cells.shape != axis.weights.shape or axis.cells.ndim != 2 or len(axis.cells) != size:
        raise ValueError(
            f"{name} must have cells and weights [{size}, T], not {list(axis.cells.shape)}, {list(axis.weights.shape)}"
        )
    if (axis.cells.device, axis.weights.device) != (device, device):
        raise ValueError(f"{name} must be on {device}, not {axis.cells.device} and {axis.weights.device}")
    # A look at the cells would wait for all that the device has to do.
    if torch.compiler.is_compiling() or axis.cells.device.type != "cpu" or not axis.cells.numel():
        return
    low, high = (int(value) for value in axis.cells.aminmax())
    if low < 0 or high >= cells:
        raise ValueError(f"{name} must read cells 0 to {cells - 1}, not {low} to {high}")


def _kernel(
    source: Tensor, taps: Tensor, row_cells: Tensor, row_weights: Tensor, column_cells: Tensor, column_weights: Tensor,
    backend: str,
) -> Tensor:  # fmt: skip
    axes = (t.contiguous() for t in (row_cells, row_weights, column_cells, column_weights))
    return implementation("resampled_conv", backend).forward(source.contiguous(), taps.contiguous(), *axes)


def _fake(source: Tensor, taps: Tensor, *rest: Any) -> Tensor:
    return source.new_empty(source.shape[0], source.shape[1], taps.shape[2], taps.shape[3])


_resampled_conv = register(
    "resampled_conv(Tensor source, Tensor taps, Tensor row_cells, Tensor row_weights, Tensor column_cells, "
    "Tensor column_weights, str backend) -> Tensor",
    _kernel, _fake, None,
)  # fmt: skip
