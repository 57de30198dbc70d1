"""`resampled_conv` for benchmarks and tests: bicubic, with the padding of a stage of JBU."""

from __future__ import annotations

import torch.nn.functional as F
from featup_kernels.cases import Cases, Shape, Slices, tap_loop, taps_shape
from featup_kernels.operation import Case
from featup_kernels.resampled_conv.axis import Axis, window_axis
from featup_kernels.resampled_conv.op import resampled_conv
from torch import Tensor


def shapes(case: Case) -> dict[str, Shape]:
    return {"source": (case.batch, case.channels, *case.lr_size), "taps": taps_shape(case)}


def axes(case: Case, source: Tensor) -> list[Axis]:
    """How the windows read the rows and the columns of the source."""
    return [
        window_axis("bicubic", case.size, dim, case.window // 2, cells, source)
        for dim, cells in enumerate(source.shape[2:])
    ]


def run(case: Case, backend: str, source: Tensor, taps: Tensor) -> Tensor:
    return resampled_conv(source, taps, *axes(case, source), backend=backend)


def loop(case: Case, source: Tensor, taps: Tensor) -> Tensor:
    radius = case.window // 2
    fine = F.interpolate(source, size=case.size, mode="bicubic", align_corners=False)
    mode = "reflect" if min(case.size) > radius else "replicate"
    return tap_loop(F.pad(fine, (radius,) * 4, mode=mode), taps)


def cut(case: Case, batch: slice, channels: slice, rows: slice) -> tuple[Slices, ...]:
    """Channels are independent; rows are not cut, since places depend on the whole height."""
    return (batch, channels), (batch,)


def flops(
    source: Tensor, taps: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, *rest: object, out_val: Tensor
) -> int:
    """The window, and the cells that are mixed along each axis."""
    return 2 * (taps.shape[1] + rows.shape[1] + columns.shape[1]) * out_val.numel()


CASES = Cases(shapes, run, loop, cut, flops=flops, cuts=("channels",))
