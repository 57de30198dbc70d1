"""`range_taps` as something to measure and to check; the channels of a case are those of the keys."""

from __future__ import annotations

import torch
from featup_kernels.cases import ALL, Cases, Shape, Slices, taps_shape, with_halo
from featup_kernels.operation import Case
from featup_kernels.range_taps.op import range_taps
from featup_kernels.range_taps.reference import spatial_logits
from torch import Tensor


def shapes(case: Case) -> dict[str, Shape]:
    return {"keys": (case.batch, case.channels, *case.padded), "temperature": (), "spatial": ()}


def spread(case: Case, name: str) -> float:
    """That of keys whose scores are of order one."""
    return float(case.channels**-0.25)


def run(case: Case, backend: str, keys: Tensor, temperature: Tensor, spatial: Tensor) -> Tensor:
    return range_taps(keys, case.window // 2, temperature, spatial, backend=backend)


def loop(case: Case, keys: Tensor, temperature: Tensor, spatial: Tensor) -> Tensor:
    radius, (height, width) = case.window // 2, (n - case.window + 1 for n in keys.shape[2:])
    centre = keys[:, :, radius : radius + height, radius : radius + width]
    similarity = torch.stack(
        [
            (keys[:, :, dy : dy + height, dx : dx + width] * centre).sum(1)
            for dy in range(case.window)
            for dx in range(case.window)
        ],
        1,
    )
    scores = temperature * similarity + spatial_logits(radius, spatial)[:, None, None]
    return scores.softmax(1).to(keys.dtype)


def cut(case: Case, batch: slice, channels: slice, rows: slice) -> tuple[Slices, ...]:
    return (batch, ALL, with_halo(case, rows)), (), ()


def flops(keys: Tensor, *rest: object, out_val: Tensor) -> int:
    """A multiplication and an addition for each channel of each score."""
    return 2 * keys.shape[1] * out_val.numel()


CASES = Cases(shapes, run, loop, cut, taps_shape, spread, flops, cuts=("rows",), reads_output=True)
