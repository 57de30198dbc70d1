"""`resampled_conv` on the CPU: as `adaptive_conv`, but windows are made instead of copied.

A tile needs few rows of the source. They are widened to the tile's columns first, which reads scattered cells; each row
of the window is then a mix of whole widened rows. Neighbouring rows of the window share them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from featup_kernels.parallel import as_array, empty, work_dtype
from featup_kernels.tiles import (
    CHANNELS,
    RUN,
    Pointer,
    advance,
    copy_window,
    cut_tiles,
    fill,
    helper,
    jit,
    mix_run,
    pointer,
    round_up,
    run_tiles,
    store_tile,
    tile_of,
)
from torch import Tensor


class _Places(NamedTuple):
    """Where windows read the source."""

    row_cells: np.ndarray[Any, Any]  # [H + k - 1, T]
    row_weights: np.ndarray[Any, Any]
    column_cells: np.ndarray[Any, Any]  # [T, W + k - 1]
    column_weights: np.ndarray[Any, Any]
    lowest: np.ndarray[Any, Any]  # [tiles down], first row of the source that a row of tiles reads
    highest: np.ndarray[Any, Any]
    row_terms: tuple[int, ...]  # as long as T is for rows
    column_terms: tuple[int, ...]


def forward(
    source: Tensor, taps: Tensor, row_cells: Tensor, row_weights: Tensor, column_cells: Tensor, column_weights: Tensor
) -> Tensor:
    """[B, C, H, W]; arguments as `resampled_conv`, checked there, contiguous and not empty."""
    batch, channels = source.shape[:2]
    height, width = taps.shape[2:]
    k = round(taps.shape[1] ** 0.5)
    out = empty(batch, channels, height, width, dtype=work_dtype(source))
    tiles = cut_tiles(out, k)
    spans = [row_cells[top : top + tiles.rows + k - 1].numpy() for top in range(0, height, tiles.rows)]
    lowest, highest = np.array([span.min() for span in spans]), np.array([span.max() for span in spans])
    places = _Places(
        row_cells.numpy(), row_weights.to(out.dtype).numpy(),
        column_cells.T.contiguous().numpy(), column_weights.T.contiguous().to(out.dtype).numpy(),
        lowest, highest, (0,) * row_cells.shape[1], (0,) * column_cells.shape[1],
    )  # fmt: skip
    widened = int((highest - lowest).max() + 1) * (tiles.cols + k - 1)
    scratch = (*tiles.scratch(), widened)
    run_tiles(_tiles, out, tiles, as_array(source), as_array(taps), places, scratch=scratch)
    return out.to(source.dtype)


@jit
def _tiles(start: int, stop: int, buffers: Any, out: Any, source: Any, taps: Any, places: Any, tiles: Any) -> None:
    sums, windows, tile_taps = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    widened = pointer(buffers[3], 0)
    channels, height, width = out.shape[1:]
    k, unroll = tiles.k, tiles.unroll
    for item in range(start, stop):
        tile = tile_of(item, tiles, height, width)
        image, top, left, rows, cols = tile
        stride = cols + k - 1
        n = round_up((rows - 1) * stride + cols)
        for t in range(k * k):
            plane_of_tap = pointer(taps, (image * k * k + t) * height * width)
            copy_window(advance(tile_taps, t * RUN), stride, plane_of_tap, height, width, tile)
        low, high = places.lowest[top // tiles.rows], places.highest[top // tiles.rows]
        for channel in range(0, channels, CHANNELS):
            for c in range(CHANNELS):
                fill(advance(sums, c * RUN), n, 0)
                if channel + c < channels:
                    _widen(widened, source, image, channel + c, low, high, places, left, stride)
                    _mix_rows(advance(windows, c * tiles.plane), widened, low, places, top, rows + k - 1, stride)
            for t in range(0, k * k, len(unroll)):
                window = advance(windows, t // k * stride + t % k)
                mix_run(sums, advance(tile_taps, t * RUN), window, tiles.plane, n, unroll, RUN, 1, RUN)
            for c in range(min(CHANNELS, channels - channel)):
                target = pointer(out, (image * channels + channel + c) * height * width)
                store_tile(target, width, tile, advance(sums, c * RUN), stride)


@helper
def _widen(
    widened: Pointer, source: Any, image: int, channel: int, low: int, high: int, places: Any, left: int, cols: int
) -> None:
    """Rows `low` to `high` of a channel at the columns of a tile."""
    channels, lr_height, lr_width = source.shape[1:]
    total = places.column_cells.shape[1]
    cells, weights = pointer(places.column_cells, left), pointer(places.column_weights, left)
    for row in range(low, high + 1):
        pixels = pointer(source, ((image * channels + channel) * lr_height + row) * lr_width)
        to = advance(widened, (row - low) * cols)
        for x in range(cols):
            value = weights[x] * pixels[cells[x]]
            for i in range(1, len(places.column_terms)):
                value += weights[i * total + x] * pixels[cells[i * total + x]]
            to[x] = value


@helper
def _mix_rows(window: Pointer, widened: Pointer, low: int, places: Any, top: int, rows: int, cols: int) -> None:
    """Rows of a window as sums of widened ones."""
    for row in range(rows):
        to = advance(window, row * cols)
        for i in range(len(places.row_terms)):
            weight = places.row_weights[top + row, i]
            values = advance(widened, (places.row_cells[top + row, i] - low) * cols)
            if i == 0:
                for x in range(cols):
                    to[x] = weight * values[x]
            else:
                for x in range(cols):
                    to[x] += weight * values[x]
