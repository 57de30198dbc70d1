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


def clamped(rows: Rows, height: int, start: int, stop: int) -> Tensor:
    """Rows that may lie outside the map, where they are those of its border."""
    first = min(max(start, 0), height - 1)
    last = max(min(stop, height), first + 1)
    above = min(max(-start, 0), stop - start - 1)
    below = stop - start - above - (last - first)
    return F.pad(rows(first, last), (0, 0, above, below), mode="replicate") if above or below else rows(first, last)


def gathered(rows: Rows, start: int, stop: int, chunk: int) -> Tensor:
    """Rows `start` to `stop`, made `chunk` at a time."""
    first = rows(start, min(start + chunk, stop))
    if first.shape[2] == stop - start:
        return first
    maps = _empty(first, stop - start)  # many small results, kept for a while, would leave gaps in the memory
    maps[:, :, :chunk] = first
    for top, bottom in bands_of(stop, chunk, start + chunk):
        maps[:, :, top - start : bottom - start] = rows(top, bottom)
    return maps


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
        if stop - start == self.height:
            return self.ring
        place = start % self.capacity
        wrapped = place + stop - start - self.capacity
        if wrapped <= 0:
            return self.ring[:, :, place : place + stop - start]
        return torch.cat((self.ring[:, :, place:], self.ring[:, :, :wrapped]), 2)

    def _append(self, made: Tensor) -> None:
        rows = made.shape[2]
        if rows == self.height:  # as it is: gradients and compilers can't follow rows into a ring
            self.ring = made
        else:
            if self.ring is None:
                self.ring = _empty(made, self.capacity)
            place = self.stop % self.capacity
            head = min(rows, self.capacity - place)
            self.ring[:, :, place : place + head] = made[:, :, :head]
            self.ring[:, :, : rows - head] = made[:, :, head:]
        self.stop += rows
        if self.stop == self.capacity == self.height:
            del self.make  # and with it the maps that it reads


def _empty(like: Tensor, height: int) -> Tensor:
    """Room for `height` rows."""
    shape = *like.shape[:2], height, like.shape[3]
    if like.device.type == "cpu" and like.dtype == torch.float32:
        return empty(*shape, dtype=like.dtype)  # in huge pages
    return like.new_empty(shape)


def window_rows(height: int, span: int, chunk: int) -> int:
    """How many rows a `Window` keeps."""
    return min(height, span + chunk)
