"""A stack of stages that makes any rows of its result: a few rows of a stage need a few more of the stage before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_cli.ops.taps import RowTaps, interpolating_rows
from featup_cli.upsamplers.api import FLOAT
from featup_cli.upsamplers.jbu.stack import Size, apply_stack, basis_is_cheaper, channel_chunk, unfused_chunk
from featup_cli.upsamplers.jbu.stage import Band, filter_band, part_rows, whole

Weigh = Callable[[int, Band], Tensor]
"""Weights [B, k * k, rows, W] of a band of the stage with this number."""

SCRATCH_BYTES = 25_000_000  # that libraries and threads take for themselves
WHOLE_BYTES = 32e6  # early stages whose results are smaller than this are made once, whole


@dataclass(frozen=True)
class Step:
    """What a band of one stage reads: `rows` of the stage before, of which the first is number `first`."""

    band: Band
    rows: RowTaps
    first: int


class BandedStack:
    """The stack for given features.

    Args:
        feats: [B, C, h, w].
        sizes: output grids of the stages.
        radius: of their windows.
        resize: `bicubic`, `bilinear` or `nearest`, before each filter.
        weigh: makes the weights.
    """

    def __init__(self, feats: Tensor, sizes: Sequence[Size], radius: int, resize: str, weigh: Weigh) -> None:
        self.sizes, self.radius, self.resize, self.weigh = sizes, radius, resize, weigh
        lr_pixels = feats.shape[2] * feats.shape[3]
        self.mix: Tensor | None = None
        if basis_is_cheaper(feats.shape[1], lr_pixels, (2 * radius + 1) ** 2, sizes):
            self.mix = feats.flatten(2)
            basis = torch.eye(lr_pixels, dtype=feats.dtype, device=feats.device)
            feats = basis.view(1, lr_pixels, *feats.shape[2:]).expand(len(feats), -1, -1, -1)
        self.early = whole_stages(feats.shape[0] * feats.shape[1], sizes)
        if self.early:
            taps = [weigh(i, whole(sizes[i], radius)) for i in range(self.early)]
            feats = apply_stack(taps, feats, resize)
        self.source = feats

    def bands(self, rows: int, start: int = 0) -> Iterator[Tensor]:
        """The result from row `start` on in bands of `rows`: [B, C, at most `rows`, W]."""
        height = self.sizes[-1][0]
        for top in range(start, height, rows):
            yield self(top, min(top + rows, height))

    def __call__(self, top: int, bottom: int) -> Tensor:
        """Rows `top` to `bottom` of the result: [B, C, bottom - top, W]."""
        steps: list[Step] = []
        for i in reversed(range(self.early, len(self.sizes))):
            band = Band(self.sizes[i], top, bottom, self.radius)
            cells = self.source.shape[2] if i == self.early else self.sizes[i - 1][0]
            rows = interpolating_rows(self.resize, self.sizes[i][0], cells, self.source)[band.first : band.stop]
            top, bottom = rows.span()
            steps.insert(0, Step(band, rows, top))
        taps = [self.weigh(self.early + i, step.band) for i, step in enumerate(steps)]
        source = self.source[:, :, top:bottom]
        chunk = channel_chunk(source, taps[-1])
        if chunk == source.shape[1]:
            out = self._filter(source, steps, taps)
        else:
            out = source.new_empty(*source.shape[:2], *taps[-1].shape[2:])
            for part, target in zip(source.split(chunk, dim=1), out.split(chunk, dim=1), strict=True):
                target.copy_(self._filter(part, steps, taps))
        return out if self.mix is None else torch.bmm(self.mix, out.flatten(2)).unflatten(2, out.shape[2:])

    def _filter(self, source: Tensor, steps: Sequence[Step], taps: Sequence[Tensor]) -> Tensor:
        for step, weights in zip(steps, taps, strict=True):
            source = filter_band(source, weights, self.resize, step.band, step.rows, step.first)
        return source


def whole_stages(channels: int, sizes: Sequence[Size]) -> int:
    """How many early stages are made whole; never the last."""
    early = 0
    while early < len(sizes) - 1 and FLOAT * channels * math.prod(sizes[early]) <= WHOLE_BYTES:
        early += 1
    return early


def stack_bytes(lr_shape: Sequence[int], sizes: Sequence[Size], radius: int, maps: int, rows: int) -> int:
    """Estimated peak of a `BandedStack` with its features, while it makes bands of `rows`.

    Args:
        lr_shape: [B, C, h, w].
        sizes, radius: as the stack.
        maps: maps that are held at once while weights are made, of the rows that are made at a time.
        rows: of a band.
    """
    batch, channels, height, _ = lr_shape
    side, taps_per_pixel = 2 * radius + 1, (2 * radius + 1) ** 2
    early = whole_stages(batch * channels, sizes)
    # Early stages: two results at most, and the weights of all of them, which are gone when the bands begin.
    source = channels * math.prod(sizes[early - 1]) if early else 0
    preparing = 2 * source + sum(math.prod(size) for size in sizes[:early]) * taps_per_pixel
    preparing += max((_weighed(size, size[0], side) for size in sizes[:early]), default=0) * maps
    weights = weighing = slabs = passing = 0
    part = rows
    for i in reversed(range(early, len(sizes))):
        tall, width = min(part + side - 1, sizes[i][0]), sizes[i][1]
        weights += taps_per_pixel * part * width
        weighing = max(weighing, _weighed(sizes[i], tall, side) * maps + taps_per_pixel * part * width)
        slabs = max(slabs, 4 * (tall + side) * (width + side))
        before = sizes[i - 1][0] if i else height
        made, part = part * width, min(math.ceil(tall * before / sizes[i][0]) + 4, before)
        passing = max(passing, made + (part * sizes[i - 1][1] if i > early else 0))
    # A step's rows and the ones that they are made of; or, where sources are resized first, chunks of them.
    filtering = max(channels * passing, channels * rows * sizes[-1][1] + unfused_chunk(channels) * slabs)
    return SCRATCH_BYTES + FLOAT * batch * max(preparing, source + weights + max(weighing, filtering))


def _weighed(size: Size, rows: int, side: int) -> int:
    """Pixels, at most, of which the keys are there at once while the weights of some rows are made."""
    return min(rows, part_rows(size[1]) + side) * (size[1] + side)
