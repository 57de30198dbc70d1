"""`adaptive_conv` on the CPU: tiles of the output, all channels of a tile after another, its taps loaded once.

With few channels a tap is used so seldom that copying it costs more than reading it where it is.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from featup_kernels.parallel import as_array, empty, run, work_dtype
from featup_kernels.tiles import (
    CHANNELS,
    RUN,
    Pointer,
    advance,
    ceil_div,
    copy_window,
    correlate_tile,
    fill,
    jit,
    load_channels,
    mix_run,
    mix_tile,
    pointer,
    store_tile,
    tile_shape,
    unrolled,
    window_plane,
)
from torch import Tensor

# The forward pass reads taps in place for few channels, and rows long enough for whole vectors.
FEW_CHANNELS = 16
LONG_ROW = 48


def forward(source: Tensor, taps: Tensor) -> Tensor:
    """[B, C, H, W]; arguments as `adaptive_conv`, checked there, contiguous and not empty."""
    return _mix(source, taps, (taps.shape[2], taps.shape[3]), transposed=False)


def d_source(d_out: Tensor, taps: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, *size]: each pixel of the source gathers what the windows that contain it ask of it."""
    return _mix(d_out, taps, size, transposed=True)


def d_taps(d_out: Tensor, source: Tensor, k: int) -> Tensor:
    """[B, k * k, H, W]: sums over the channels of `d_out` times the pixel that the tap read."""
    batch, _, height, width = d_out.shape
    rows, cols = tile_shape(batch, height, width, k, torch.get_num_threads())
    out = empty(batch, k * k, height, width, dtype=work_dtype(d_out))
    plane = window_plane(rows, cols, k)
    items = batch * ceil_div(height, rows) * ceil_div(width, cols)
    scratch = (CHANNELS * RUN, CHANNELS * plane, k * k * RUN)
    run(
        _d_taps_tiles, items, scratch, out.dtype,
        out.numpy(), as_array(d_out), as_array(source), rows, cols, k, plane, unrolled(k),
    )  # fmt: skip
    return out.to(d_out.dtype)


def _mix(source: Tensor, taps: Tensor, size: tuple[int, int], transposed: bool) -> Tensor:
    batch, channels = source.shape[:2]
    threads = torch.get_num_threads()
    if batch * size[0] * size[1] < threads * RUN:
        # Too few pixels for all threads: blocks of 64 channels, or a multiple, count as images that share their taps.
        blocks = max(1, gcd(channels, 512) // 64)
        source = source.view(batch * blocks, channels // blocks, *source.shape[2:])
    images, channels = source.shape[:2]
    k = round(taps.shape[1] ** 0.5)
    in_place = channels <= FEW_CHANNELS and size[1] >= LONG_ROW and not transposed
    # Rows of 256 taps, read in place, are long enough for the CPU to fetch them ahead.
    rows, cols = tile_shape(images, size[0], size[1], k, threads, 256 if in_place else 128)
    out = empty(batch, images // batch * channels, *size, dtype=work_dtype(source))
    plane = window_plane(rows, cols, k)
    items = images * ceil_div(size[0], rows) * ceil_div(size[1], cols)
    scratch = (CHANNELS * RUN, CHANNELS * plane, k * k * RUN)
    run(
        _mix_tiles, items, scratch, out.dtype,
        out.numpy().reshape(images, channels, *size), as_array(source), as_array(taps),
        rows, cols, k, plane, unrolled(k), transposed, in_place,
    )  # fmt: skip
    return out.to(source.dtype)


@jit
def _mix_tiles(
    start: int, stop: int, buffers: Any, out: Any, source: Any, taps: Any,
    tile_rows: int, tile_cols: int, k: int, plane: int, unroll: tuple[int, ...], transposed: bool,
    in_place: bool,
) -> None:  # fmt: skip
    """The filter or its transpose, which is a filter too.

    The transpose pads the source with zeros, and its tap t for a pixel is tap k * k - 1 - t of the pixel that lies t
    further on in that padding. Images may outnumber those of the taps: then several in a row share their taps.
    """
    sums, windows, tile_taps = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    height, width = out.shape[2:]
    tap_height, tap_width = taps.shape[2:]
    down, across = ceil_div(height, tile_rows), ceil_div(width, tile_cols)
    border = k - 1 if transposed else 0
    sharing = out.shape[0] // taps.shape[0]
    for item in range(start, stop):
        image, tile = item // (down * across), item % (down * across)
        top, left = tile // across * tile_rows, tile % across * tile_cols
        rows, cols = min(tile_rows, height - top), min(tile_cols, width - left)
        if in_place:
            _mix_in_place(out, image, top, left, rows, cols, source, k, taps, windows, plane, sums, unroll)
            continue
        for t in range(k * k):
            tap = k * k - 1 - t if transposed else t
            tap_top, tap_left = (top - border + t // k, left - border + t % k) if transposed else (top, left)
            plane_of_tap = pointer(taps, (image // sharing * k * k + tap) * tap_height * tap_width)
            target = advance(tile_taps, t * RUN)
            copy_window(target, cols + k - 1, plane_of_tap, tap_height, tap_width, tap_top, tap_left, rows, cols)
        mix_tile(
            out, image, top, left, rows, cols, source, top - border, left - border, k,
            tile_taps, windows, plane, sums, unroll,
        )  # fmt: skip


@jit
def _mix_in_place(
    out: Any, image: int, top: int, left: int, rows: int, cols: int, source: Any, k: int, taps: Any,
    windows: Pointer, plane: int, sums: Pointer, unroll: tuple[int, ...],
) -> None:  # fmt: skip
    """Filter a tile of every channel of an image, row by row, with taps that are read where they are."""
    channels, height, width = out.shape[1:]
    stride = cols + k - 1
    for channel in range(0, channels, CHANNELS):
        load_channels(windows, plane, stride, source, image, channel, top, left, rows + k - 1, stride)
        for row in range(rows):
            for c in range(CHANNELS):
                fill(advance(sums, c * RUN), cols, 0)
            for t in range(0, k * k, len(unroll)):
                row_taps = pointer(taps, ((image * k * k + t) * height + top + row) * width + left)
                row_windows = advance(windows, (row + t // k) * stride + t % k)
                mix_run(sums, row_taps, row_windows, plane, cols, unroll, RUN, 1, height * width)
            for c in range(min(CHANNELS, channels - channel)):
                target = pointer(out, (image * channels + channel + c) * height * width)
                store_tile(target, width, top + row, left, 1, cols, advance(sums, c * RUN), stride)


@jit
def _d_taps_tiles(
    start: int, stop: int, buffers: Any, out: Any, d_out: Any, source: Any,
    tile_rows: int, tile_cols: int, k: int, plane: int, unroll: tuple[int, ...],
) -> None:  # fmt: skip
    centres, windows, products = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    height, width = out.shape[2:]
    down, across = ceil_div(height, tile_rows), ceil_div(width, tile_cols)
    for item in range(start, stop):
        image, tile = item // (down * across), item % (down * across)
        top, left = tile // across * tile_rows, tile % across * tile_cols
        rows, cols = min(tile_rows, height - top), min(tile_cols, width - left)
        correlate_tile(
            products, source, d_out, 0, 0, image, top, left, rows, cols, k, windows, plane, centres, unroll
        )  # fmt: skip
        for t in range(k * k):
            target = pointer(out, (image * k * k + t) * height * width)
            store_tile(target, width, top, left, rows, cols, advance(products, t * RUN), cols + k - 1)
