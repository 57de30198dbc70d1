"""`neighbor_mix` on the CPU.

The bilinear upsampling and the taps together make (k + 1)^2 weights on low-resolution pixels for each output pixel.
They are computed once for all channels. The rows of the source are spread to the width of the output, k + 1 times, each
with the columns of neighbour 0, 1, ..., so that what remains are products of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from featup_kernels.parallel import as_array, empty, run, work_dtype
from featup_kernels.tiles import (
    CHANNELS,
    Pointer,
    Tile,
    advance,
    ceil_div,
    correlate_run,
    fill,
    helper,
    jit,
    load_channels,
    mix_run,
    pointer,
    round_up,
    run_tiles,
    store_tile,
    tile_of,
    unrolled,
)
from torch import Tensor

COLS = 128  # of a tile, and from one of its rows to the next
APART = 32 * COLS + 16  # elements from one weight's plane of a tile to the next; an odd number of cache lines


class _Grid(NamedTuple):
    """Where the output pixels lie on the source, and how they are cut into tiles."""

    first_rows: np.ndarray[Any, Any]  # [H], of the k + 1 rows that an output pixel mixes, before clamping
    down: np.ndarray[Any, Any]  # [H], fraction of a row below the first of two
    columns: np.ndarray[Any, Any]  # [k + 1, W], clamped
    right: np.ndarray[Any, Any]  # [W]
    rows: int  # of a tile
    cols: int
    k: int
    plane: int  # elements that the spread rows of a channel take; an odd number of cache lines
    unroll: tuple[int, ...]

    def scratch(self) -> tuple[int, int, int]:
        """Elements of CHANNELS planes, of the spread rows of CHANNELS channels, and of a plane for each weight."""
        return CHANNELS * APART, CHANNELS * self.plane, (self.k + 1) ** 2 * APART


def _grid(
    batch: int, lr_size: tuple[int, ...], size: tuple[int, ...], k: int, dtype: torch.dtype, threads: int
) -> _Grid:
    work = np.float64 if dtype == torch.float64 else np.float32
    rows, columns = ((np.arange(n) + 0.5) * (lr / n) - 0.5 for lr, n in zip(lr_size, size, strict=True))
    first_rows, first_columns = (np.floor(axis).astype(np.int64) for axis in (rows, columns))
    # Buffers that fit into the cache, and enough tiles to keep the threads busy.
    fitting = min(4 * COLS // (k + 1) ** 2, (COLS // (k + 1) - k - 2) * size[0] // lr_size[0])
    sharing = batch * size[0] * ceil_div(size[1], COLS) // (2 * threads)
    tile_rows = max(1, min(32, fitting, max(4, sharing), size[0]))
    ends = np.minimum(np.arange(0, size[0], tile_rows) + tile_rows, size[0]) - 1
    span = int((first_rows[ends] - first_rows[::tile_rows]).max()) + k + 1  # rows that a tile needs, at most
    return _Grid(
        first_rows - k // 2,
        (rows - first_rows).astype(work),
        np.clip(first_columns + (np.arange(k + 1) - k // 2)[:, None], 0, lr_size[1] - 1),
        (columns - first_columns).astype(work),
        tile_rows,
        COLS,
        k,
        ceil_div(span * (k + 1) * COLS, 1024) * 1024 + 80,
        unrolled(k + 1),
    )


def forward(lr_source: Tensor, taps: Tensor) -> Tensor:
    """[B, C, H, W]; arguments as `neighbor_mix`, checked there, contiguous and not empty."""
    batch, channels, *lr_size = lr_source.shape
    k, size = round(taps.shape[1] ** 0.5), taps.shape[2:]
    out = empty(batch, channels, *size, dtype=work_dtype(taps))
    grid = _grid(batch, tuple(lr_size), tuple(size), k, out.dtype, torch.get_num_threads())
    run_tiles(_forward_tiles, out, grid, as_array(lr_source), as_array(taps), scratch=grid.scratch())
    return out.to(taps.dtype)


def d_taps(d_out: Tensor, lr_source: Tensor, k: int) -> Tensor:
    """[B, k * k, H, W]: sums over the channels of `d_out` times the neighbour."""
    batch, _, *size = d_out.shape
    out = empty(batch, k * k, *size, dtype=work_dtype(d_out))
    grid = _grid(batch, tuple(lr_source.shape[2:]), tuple(size), k, out.dtype, torch.get_num_threads())
    run_tiles(_d_taps_tiles, out, grid, as_array(d_out), as_array(lr_source), scratch=grid.scratch())
    return out.to(d_out.dtype)


def d_source(d_out: Tensor, taps: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w]: every group of channels is summed by one thread, so nothing is added at the same time."""
    batch, channels, *out_size = d_out.shape
    k = round(taps.shape[1] ** 0.5)
    out = empty(batch, channels, *size, dtype=work_dtype(d_out))
    # Tiles as for one thread: they decide in which order numbers are added, and results must not depend on threads.
    grid = _grid(batch, size, tuple(out_size), k, out.dtype, 1)
    groups = min(ceil_div(channels, 16), ceil_div(2 * torch.get_num_threads(), batch))
    group = ceil_div(channels, groups * CHANNELS) * CHANNELS
    planes, _, weights = grid.scratch()
    items, arrays = batch * ceil_div(channels, group), (out.numpy(), as_array(d_out), as_array(taps))
    run(_d_source_groups, items, (planes, grid.plane, weights), out.dtype, *arrays, grid, group)
    return out.to(d_out.dtype)


@helper
def _combine(weights: Pointer, taps: Any, grid: Any, tile: Tile) -> None:
    """Weights of the low-resolution pixels: every tap is shared by the four around its neighbour."""
    image, top, left, rows, cols = tile
    k, (height, width) = grid.k, taps.shape[2:]
    fill(weights, (k + 1) ** 2 * APART, 0)
    right = pointer(grid.right, left)
    for t in range(k * k):
        upper = advance(weights, (t // k * (k + 1) + t % k) * APART)
        lower = advance(upper, (k + 1) * APART)
        for row in range(rows):
            tap = pointer(taps, ((image * k * k + t) * height + top + row) * width + left)
            down = grid.down[top + row]
            above, below = advance(upper, row * COLS), advance(lower, row * COLS)
            for x in range(cols):
                share = tap[x] * right[x]
                rest = tap[x] - share
                below[x] += down * rest
                above[x] += rest - down * rest
                below[APART + x] += down * share
                above[APART + x] += share - down * share


@helper
def _rows_under(grid: Any, tile: Tile) -> tuple[int, int]:
    """The first row of the source that a tile needs, before clamping, and how many."""
    low = grid.first_rows[tile.top]
    return low, grid.first_rows[tile.top + tile.rows - 1] + grid.k + 1 - low


@helper
def _spread_rows(windows: Pointer, source: Any, channel: int, grid: Any, tile: Tile) -> None:
    """Spread rows of the next channels to the columns of a tile; zeros where there are no more channels."""
    _, channels, lr_height, lr_width = source.shape
    side, width = grid.columns.shape
    low, span = _rows_under(grid, tile)
    for c in range(CHANNELS):
        window = advance(windows, c * grid.plane)
        if channel + c >= channels:
            fill(window, span * side * COLS, 0)
            continue
        for row in range(span):
            y = min(max(low + row, 0), lr_height - 1)
            pixels = pointer(source, ((tile.image * channels + channel + c) * lr_height + y) * lr_width)
            for i in range(side):
                to, columns = advance(window, (row * side + i) * COLS), pointer(grid.columns, i * width + tile.left)
                for x in range(tile.cols):
                    to[x] = pixels[columns[x]]


@jit
def _forward_tiles(start: int, stop: int, buffers: Any, out: Any, source: Any, taps: Any, grid: Any) -> None:
    sums, windows, weights = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    channels, height, width = out.shape[1:]
    side, unroll = grid.k + 1, grid.unroll
    for item in range(start, stop):
        tile = tile_of(item, grid, height, width)
        low = grid.first_rows[tile.top]
        _combine(weights, taps, grid, tile)
        for channel in range(0, channels, CHANNELS):
            _spread_rows(windows, source, channel, grid, tile)
            fill(sums, CHANNELS * APART, 0)
            for row in range(tile.rows):
                row_windows = advance(windows, (grid.first_rows[tile.top + row] - low) * side * COLS)
                for i in range(0, side * side, len(unroll)):
                    mix_run(
                        advance(sums, row * COLS), advance(weights, i * APART + row * COLS),
                        advance(row_windows, i * COLS), grid.plane, round_up(tile.cols), unroll, APART, COLS, APART,
                    )  # fmt: skip
            for c in range(min(CHANNELS, channels - channel)):
                target = pointer(out, (tile.image * channels + channel + c) * height * width)
                store_tile(target, width, tile, advance(sums, c * APART), COLS)


@jit
def _d_taps_tiles(start: int, stop: int, buffers: Any, out: Any, d_out: Any, source: Any, grid: Any) -> None:
    centres, windows, products = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    side, unroll = grid.k + 1, grid.unroll
    for item in range(start, stop):
        tile = tile_of(item, grid, out.shape[2], out.shape[3])
        low = grid.first_rows[tile.top]
        fill(products, side * side * APART, 0)
        for channel in range(0, source.shape[1], CHANNELS):
            _spread_rows(windows, source, channel, grid, tile)
            load_channels(centres, APART, COLS, d_out, channel, tile)
            for row in range(tile.rows):
                row_windows = advance(windows, (grid.first_rows[tile.top + row] - low) * side * COLS)
                for i in range(0, side * side, len(unroll)):
                    correlate_run(
                        advance(products, i * APART + row * COLS), advance(centres, row * COLS),
                        advance(row_windows, i * COLS), grid.plane, round_up(tile.cols), unroll, APART, COLS,
                    )  # fmt: skip
        _share_products(out, products, grid, tile)


@helper
def _share_products(out: Any, products: Pointer, grid: Any, tile: Tile) -> None:
    """The transpose of `_combine`: every tap gathers from the four low-resolution pixels around its neighbour."""
    image, top, left, rows, cols = tile
    k, (height, width) = grid.k, out.shape[2:]
    right = pointer(grid.right, left)
    for t in range(k * k):
        upper = advance(products, (t // k * (k + 1) + t % k) * APART)
        lower = advance(upper, (k + 1) * APART)
        for row in range(rows):
            target = pointer(out, ((image * k * k + t) * height + top + row) * width + left)
            down = grid.down[top + row]
            above, below = advance(upper, row * COLS), advance(lower, row * COLS)
            for x in range(cols):
                here = above[x] + down * (below[x] - above[x])
                there = above[APART + x] + down * (below[APART + x] - above[APART + x])
                target[x] = here + right[x] * (there - here)


@jit
def _d_source_groups(
    start: int, stop: int, buffers: Any, out: Any, d_out: Any, taps: Any, grid: Any, group: int
) -> None:
    centres, spread, weights = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    channels, lr_height, lr_width = out.shape[1:]
    height, width = d_out.shape[2:]
    groups, side, unroll = ceil_div(channels, group), grid.k + 1, grid.unroll
    tiles = ceil_div(height, grid.rows) * ceil_div(width, grid.cols)
    for item in range(start, stop):
        image, first = item // groups, item % groups * group
        last = min(first + group, channels)
        fill(pointer(out, (image * channels + first) * lr_height * lr_width), (last - first) * lr_height * lr_width, 0)
        for number in range(tiles):
            tile = tile_of(image * tiles + number, grid, height, width)
            low, span = _rows_under(grid, tile)
            _combine(weights, taps, grid, tile)
            for channel in range(first, last, CHANNELS):
                load_channels(centres, APART, COLS, d_out, channel, tile)
                for c in range(min(CHANNELS, last - channel)):
                    fill(spread, span * side * COLS, 0)
                    for row in range(tile.rows):
                        base = advance(spread, (grid.first_rows[tile.top + row] - low) * side * COLS)
                        for i in range(0, side * side, len(unroll)):
                            _spread_run(
                                advance(base, i * COLS), advance(weights, i * APART + row * COLS),
                                advance(centres, c * APART + row * COLS), round_up(tile.cols), unroll,
                            )  # fmt: skip
                    target = pointer(out, (image * channels + channel + c) * lr_height * lr_width)
                    _gather_rows(target, lr_height, lr_width, spread, grid, tile)


@helper
def _spread_run(spread: Pointer, weights: Pointer, centre: Pointer, n: int, unroll: tuple[int, ...]) -> None:
    for x in range(n):
        for i in range(len(unroll)):
            spread[i * COLS + x] += weights[i * APART + x] * centre[x]


@helper
def _gather_rows(target: Pointer, lr_height: int, lr_width: int, spread: Pointer, grid: Any, tile: Tile) -> None:
    """The transpose of `_spread_rows`: add to every low-resolution pixel what was spread from it."""
    side, width = grid.columns.shape
    low, span = _rows_under(grid, tile)
    for row in range(span):
        pixels = advance(target, min(max(low + row, 0), lr_height - 1) * lr_width)
        for i in range(side):
            values, columns = advance(spread, (row * side + i) * COLS), pointer(grid.columns, i * width + tile.left)
            for x in range(tile.cols):
                pixels[columns[x]] += values[x]
