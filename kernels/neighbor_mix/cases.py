"""`neighbor_mix` for benchmarks and tests."""

from __future__ import annotations

import torch.nn.functional as F
from featup_kernels.cases import Cases, Shape, Slices, tap_loop, taps_shape
from featup_kernels.neighbor_mix.op import neighbor_mix
from featup_kernels.operation import Case
from torch import Tensor


def shapes(case: Case) -> dict[str, Shape]:
    return {"lr_source": (case.batch, case.channels, *case.lr_size), "taps": taps_shape(case)}


def run(case: Case, backend: str, lr_source: Tensor, taps: Tensor) -> Tensor:
    return neighbor_mix(lr_source, taps, backend=backend)


def loop(case: Case, lr_source: Tensor, taps: Tensor) -> Tensor:
    """The bilinear upsampling is materialised, once; its neighbours lie `scale` pixels apart."""
    padded = F.pad(lr_source, (case.window // 2,) * 4, mode="replicate")
    size = [n * case.scale for n in padded.shape[2:]]
    return tap_loop(F.interpolate(padded, size=size, mode="bilinear", align_corners=False), taps, case.scale)


def cut(case: Case, batch: slice, channels: slice, rows: slice) -> tuple[Slices, ...]:
    """Channels are independent; rows are not cut, since positions depend on the whole height."""
    return (batch, channels), (batch,)


CASES = Cases(shapes, run, loop, cut, cuts=("channels",))
