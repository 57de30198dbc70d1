"""Maps that are made a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from featup_kernels.parallel import empty
from torch import Tensor

Rows = Callable[[int, int], Tensor]
"""Rows `start` to `stop` of a map [B, C, H, W]: [B, C, stop - start, W]."""


def stored(maps: Tensor) -> Rows:
    """Rows of a map that is there."""
    return lambda start, stop: maps[:, :, start:stop]


def bands_of(height: int, rows: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """The first row and the one after the last of bands of at most `rows`, top to bottom."""
    return ((top, min(top + rows, height)) for top in range(start, height, rows))


def store(rows: Rows, height: int, chunk: int) -> Rows:
    """Make all rows, `chunk` at a time, and keep them."""
    first = rows(0, min(chunk, height))
    if first.shape[2] == height:
        return stored(first)
    maps = _empty(first, height)
    maps[:, :, :chunk] = first
    for top, bottom in bands_of(height, chunk, chunk):
        maps[:, :, top:bottom] = rows(top, bottom)
    return stored(maps)


def _empty(like: Tensor, height: int) -> Tensor:
    """Room for a map of `height` rows."""
    shape = *like.shape[:2], height, like.shape[3]
    if like.device.type == "cpu" and like.dtype == torch.float32:
        return empty(*shape, dtype=like.dtype)  # in huge pages
    return like.new_empty(shape)


def clamped(rows: Rows, height: int, start: int, stop: int) -> Tensor:
    """Rows that may lie outside the map, where they are those of its border."""
    first = min(max(start, 0), height - 1)
    last = max(min(stop, height), first + 1)
    inside = rows(first, last)
    above = min(max(-start, 0), stop - start - 1)
    below = stop - start - above - (last - first)
    return F.pad(inside, (0, 0, above, below), mode="replicate") if above or below else inside


class Window:
    """Rows that are made once, from top to bottom, and kept while they may be asked for again.

    Args:
        make: makes the rows; called for `chunk` of them at a time.
        height: of the map.
        span: rows from the first that may be asked for again to the last that was asked for.
        chunk: see `make`.
    """

    def __init__(self, make: Rows, height: int, span: int, chunk: int) -> None:
        self.make, self.height, self.chunk = make, height, chunk
        self.capacity = window_rows(height, span, chunk)
        self.ring: Tensor | None = None  # row y is kept at y % capacity
        self.first = self.stop = 0  # rows made in this pass; the ring holds the last of them

    def __call__(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, to be used before the next call: [B, C, stop - start, W]."""
        if start < max(self.first, self.stop - self.capacity):
            self.first = self.stop = start  # another pass begins
        while self.stop < stop:
            self._append(self.make(self.stop, min(self.stop + self.chunk, self.height)))
        assert self.ring is not None
        return self._read(self.ring, start, stop)

    def _append(self, made: Tensor) -> None:
        if self.ring is None:
            self.ring = made.new_empty(*made.shape[:2], self.capacity, made.shape[3])
        place = self.stop % self.capacity
        head = min(made.shape[2], self.capacity - place)
        self.ring[:, :, place : place + head] = made[:, :, :head]
        self.ring[:, :, : made.shape[2] - head] = made[:, :, head:]
        self.stop += made.shape[2]

    def _read(self, ring: Tensor, start: int, stop: int) -> Tensor:
        place = start % self.capacity
        if place + stop - start <= self.capacity:
            return ring[:, :, place : place + stop - start]
        return torch.cat((ring[:, :, place:], ring[:, :, : place + stop - start - self.capacity]), 2)


def window_rows(height: int, span: int, chunk: int) -> int:
    """How many rows a `Window` keeps."""
    return min(height, span + chunk)
