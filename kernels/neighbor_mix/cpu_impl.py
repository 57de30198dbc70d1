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
    advance,
    ceil_div,
    correlate_run,
    fill,
    jit,
    load_channels,
    mix_run,
    pointer,
    round_up,
    store_tile,
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
    tile_rows: int
    span: int  # rows of the source that a tile needs, at most

    def tiles(self) -> int:
        height, width = len(self.down), len(self.right)
        return ceil_div(height, self.tile_rows) * ceil_div(width, COLS)

    def plane(self) -> int:
        """Elements that the spread rows of a channel take; an odd number of cache lines."""
        return ceil_div(self.span * len(self.columns) * COLS, 1024) * 1024 + 80


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
    return _Grid(
        first_rows - k // 2,
        (rows - first_rows).astype(work),
        np.clip(first_columns + (np.arange(k + 1) - k // 2)[:, None], 0, lr_size[1] - 1),
        (columns - first_columns).astype(work),
        tile_rows,
        int((first_rows[ends] - first_rows[::tile_rows]).max()) + k + 1,
    )


def forward(lr_source: Tensor, taps: Tensor) -> Tensor:
    """[B, C, H, W]; arguments as `neighbor_mix`, checked there, contiguous and not empty."""
    batch, channels, *lr_size = lr_source.shape
    k, size = round(taps.shape[1] ** 0.5), taps.shape[2:]
    out = empty(batch, channels, *size, dtype=work_dtype(taps))
    grid = _grid(batch, tuple(lr_size), tuple(size), k, out.dtype, torch.get_num_threads())
    scratch = (CHANNELS * APART, CHANNELS * grid.plane(), (k + 1) ** 2 * APART)
    run(
        _forward_tiles, batch * grid.tiles(), scratch, out.dtype,
        out.numpy(), as_array(lr_source), as_array(taps), grid, grid.plane(), k, unrolled(k + 1),
    )  # fmt: skip
    return out.to(taps.dtype)


def d_taps(d_out: Tensor, lr_source: Tensor, k: int) -> Tensor:
    """[B, k * k, H, W]: sums over the channels of `d_out` times the neighbour."""
    batch, _, *size = d_out.shape
    out = empty(batch, k * k, *size, dtype=work_dtype(d_out))
    grid = _grid(batch, tuple(lr_source.shape[2:]), tuple(size), k, out.dtype, torch.get_num_threads())
    scratch = (CHANNELS * APART, CHANNELS * grid.plane(), (k + 1) ** 2 * APART)
    run(
        _d_taps_tiles, batch * grid.tiles(), scratch, out.dtype,
        out.numpy(), as_array(d_out), as_array(lr_source), grid, grid.plane(), k, unrolled(k + 1),
    )  # fmt: skip
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
    scratch = (CHANNELS * APART, grid.plane(), (k + 1) ** 2 * APART)
    run(
        _d_source_groups, batch * ceil_div(channels, group), scratch, out.dtype,
        out.numpy(), as_array(d_out), as_array(taps), grid, k, group, unrolled(k + 1),
    )  # fmt: skip
    return out.to(d_out.dtype)


@jit
def _combine(
    weights: Pointer, taps: Any, image: int, grid: Any, k: int, top: int, left: int, rows: int, cols: int
) -> None:
    """Weights of the low-resolution pixels: every tap is shared by the four around its neighbour."""
    height, width = taps.shape[2:]
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


@jit
def _spread_rows(
    windows: Pointer,
    plane: int,
    source: Any,
    image: int,
    channel: int,
    grid: Any,
    low: int,
    span: int,
    left: int,
    cols: int,
) -> None:
    """Spread rows of the next channels to the columns of a tile; zeros where there are no more channels."""
    _, channels, lr_height, lr_width = source.shape
    side, width = grid.columns.shape
    for c in range(CHANNELS):
        window = advance(windows, c * plane)
        if channel + c >= channels:
            fill(window, span * side * COLS, 0)
            continue
        for row in range(span):
            y = min(max(low + row, 0), lr_height - 1)
            pixels = pointer(source, ((image * channels + channel + c) * lr_height + y) * lr_width)
            for i in range(side):
                to, columns = advance(window, (row * side + i) * COLS), pointer(grid.columns, i * width + left)
                for x in range(cols):
                    to[x] = pixels[columns[x]]


@jit
def _forward_tiles(
    start: int, stop: int, buffers: Any, out: Any, source: Any, taps: Any, grid: Any, plane: int, k: int,
    unroll: tuple[int, ...],
) -> None:  # fmt: skip
    sums, windows, weights = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    channels, height, width = out.shape[1:]
    across, vertical = ceil_div(width, COLS), ceil_div(height, grid.tile_rows)
    side = k + 1
    for item in range(start, stop):
        image, tile = item // (vertical * across), item % (vertical * across)
        top, left = tile // across * grid.tile_rows, tile % across * COLS
        rows, cols = min(grid.tile_rows, height - top), min(COLS, width - left)
        low = grid.first_rows[top]
        span = grid.first_rows[top + rows - 1] + side - low
        _combine(weights, taps, image, grid, k, top, left, rows, cols)
        for channel in range(0, channels, CHANNELS):
            _spread_rows(windows, plane, source, image, channel, grid, low, span, left, cols)
            fill(sums, CHANNELS * APART, 0)
            for row in range(rows):
                row_windows = advance(windows, (grid.first_rows[top + row] - low) * side * COLS)
                for i in range(0, side * side, len(unroll)):
                    mix_run(
                        advance(sums, row * COLS), advance(weights, i * APART + row * COLS),
                        advance(row_windows, i * COLS), plane, round_up(cols), unroll, APART, COLS, APART,
                    )  # fmt: skip
            for c in range(min(CHANNELS, channels - channel)):
                target = pointer(out, (image * channels + channel + c) * height * width)
                store_tile(target, width, top, left, rows, cols, advance(sums, c * APART), COLS)


@jit
def _d_taps_tiles(
    start: int, stop: int, buffers: Any, out: Any, d_out: Any, source: Any, grid: Any, plane: int, k: int,
    unroll: tuple[int, ...],
) -> None:  # fmt: skip
    centres, windows, products = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    height, width = out.shape[2:]
    across, vertical = ceil_div(width, COLS), ceil_div(height, grid.tile_rows)
    side = k + 1
    for item in range(start, stop):
        image, tile = item // (vertical * across), item % (vertical * across)
        top, left = tile // across * grid.tile_rows, tile % across * COLS
        rows, cols = min(grid.tile_rows, height - top), min(COLS, width - left)
        low = grid.first_rows[top]
        span = grid.first_rows[top + rows - 1] + side - low
        fill(products, side * side * APART, 0)
        for channel in range(0, source.shape[1], CHANNELS):
            _spread_rows(windows, plane, source, image, channel, grid, low, span, left, cols)
            load_channels(centres, APART, COLS, d_out, image, channel, top, left, rows, cols)
            for row in range(rows):
                row_windows = advance(windows, (grid.first_rows[top + row] - low) * side * COLS)
                for i in range(0, side * side, len(unroll)):
                    correlate_run(
                        advance(products, i * APART + row * COLS), advance(centres, row * COLS),
                        advance(row_windows, i * COLS), plane, round_up(cols), unroll, APART, COLS,
                    )  # fmt: skip
        _share_products(out, products, image, grid, k, top, left, rows, cols)


@jit
def _share_products(
    out: Any, products: Pointer, image: int, grid: Any, k: int, top: int, left: int, rows: int, cols: int
) -> None:
    """The transpose of `_combine`: every tap gathers from the four low-resolution pixels around its neighbour."""
    height, width = out.shape[2:]
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
    start: int, stop: int, buffers: Any, out: Any, d_out: Any, taps: Any, grid: Any, k: int, group: int,
    unroll: tuple[int, ...],
) -> None:  # fmt: skip
    centres, spread, weights = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    channels, lr_height, lr_width = out.shape[1:]
    height, width = d_out.shape[2:]
    groups, side = ceil_div(channels, group), k + 1
    for item in range(start, stop):
        image, first = item // groups, item % groups * group
        last = min(first + group, channels)
        fill(pointer(out, (image * channels + first) * lr_height * lr_width), (last - first) * lr_height * lr_width, 0)
        for top in range(0, height, grid.tile_rows):
            rows = min(grid.tile_rows, height - top)
            low = grid.first_rows[top]
            span = grid.first_rows[top + rows - 1] + side - low
            for left in range(0, width, COLS):
                cols = min(COLS, width - left)
                _combine(weights, taps, image, grid, k, top, left, rows, cols)
                for channel in range(first, last, CHANNELS):
                    load_channels(centres, APART, COLS, d_out, image, channel, top, left, rows, cols)
                    for c in range(min(CHANNELS, last - channel)):
                        fill(spread, span * side * COLS, 0)
                        for row in range(rows):
                            base = advance(spread, (grid.first_rows[top + row] - low) * side * COLS)
                            for i in range(0, side * side, len(unroll)):
                                _spread_run(
                                    advance(base, i * COLS), advance(weights, i * APART + row * COLS),
                                    advance(centres, c * APART + row * COLS), round_up(cols), unroll,
                                )  # fmt: skip
                        target = pointer(out, (image * channels + channel + c) * lr_height * lr_width)
                        _gather_rows(target, lr_height, lr_width, spread, grid, low, span, left, cols)


@jit
def _spread_run(spread: Pointer, weights: Pointer, centre: Pointer, n: int, unroll: tuple[int, ...]) -> None:
    for x in range(n):
        for i in range(len(unroll)):
            spread[i * COLS + x] += weights[i * APART + x] * centre[x]


@jit
def _gather_rows(
    target: Pointer,
    lr_height: int,
    lr_width: int,
    spread: Pointer,
    grid: Any,
    low: int,
    span: int,
    left: int,
    cols: int,
) -> None:
    """The transpose of `_spread_rows`: add to every low-resolution pixel what was spread from it."""
    side, width = grid.columns.shape
    for row in range(span):
        pixels = advance(target, min(max(low + row, 0), lr_height - 1) * lr_width)
        for i in range(side):
            values, columns = advance(spread, (row * side + i) * COLS), pointer(grid.columns, i * width + left)
            for x in range(cols):
                pixels[columns[x]] += values[x]
