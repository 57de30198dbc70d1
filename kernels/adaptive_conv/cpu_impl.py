"""`adaptive_conv` on the CPU: tiles of the output, all channels of a tile after another, its taps loaded once.

With few channels a tap is used so seldom that copying it costs more than reading it where it is.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from featup_kernels.parallel import as_array, empty, work_dtype
from featup_kernels.tiles import (
    CHANNELS,
    RUN,
    Pointer,
    Tile,
    advance,
    copy_window,
    correlate_tile,
    cut_tiles,
    fill,
    helper,
    jit,
    load_channels,
    mix_run,
    mix_tile,
    pointer,
    run_tiles,
    store_tile,
    tile_of,
    window_of,
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
    out = empty(batch, k * k, height, width, dtype=work_dtype(d_out))
    tiles = cut_tiles(out, k)
    run_tiles(_d_taps_tiles, out, tiles, as_array(d_out), as_array(source), scratch=tiles.scratch())
    return out.to(d_out.dtype)


def _mix(source: Tensor, taps: Tensor, size: tuple[int, int], transposed: bool) -> Tensor:
    batch, channels = images, of_image = source.shape[:2]
    if batch * size[0] * size[1] < torch.get_num_threads() * RUN:
        # Too few pixels for all threads: blocks of 64 channels, or a multiple, count as images that share their taps.
        blocks = max(1, gcd(channels, 512) // 64)
        images, of_image = batch * blocks, channels // blocks
    in_place = of_image <= FEW_CHANNELS and size[1] >= LONG_ROW and not transposed
    out = empty(batch, channels, *size, dtype=work_dtype(source))  # returned itself: autograd forbids to change a view
    blocked = out.view(images, of_image, *size)
    # Rows of 256 taps, read in place, are long enough for the CPU to fetch them ahead.
    tiles = cut_tiles(blocked, round(taps.shape[1] ** 0.5), 256 if in_place else 128)
    sources = source.view(images, of_image, *source.shape[2:])
    arrays = as_array(sources), as_array(taps)
    run_tiles(_mix_tiles, blocked, tiles, *arrays, transposed, in_place, scratch=tiles.scratch())
    return out.to(source.dtype)


@jit
def _mix_tiles(
    start: int, stop: int, buffers: Any, out: Any, source: Any, taps: Any, transposed: bool, in_place: bool, tiles: Any
) -> None:
    """The filter or its transpose, which is a filter too.

    The transpose pads the source with zeros, and its tap t for a pixel is tap k * k - 1 - t of the pixel that lies t
    further on in that padding. Images may outnumber those of the taps: then several in a row share their taps.
    """
    sums, windows, tile_taps = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    k, (tap_height, tap_width) = tiles.k, taps.shape[2:]
    border = k - 1 if transposed else 0
    sharing = out.shape[0] // taps.shape[0]
    for item in range(start, stop):
        tile = tile_of(item, tiles, out.shape[2], out.shape[3])
        if in_place:
            _mix_in_place(out, tile, source, taps, tiles, windows, sums)
            continue
        for t in range(k * k):
            tap = k * k - 1 - t if transposed else t
            top, left = (
                (tile.top - border + t // k, tile.left - border + t % k) if transposed else (tile.top, tile.left)
            )
            plane_of_tap = pointer(taps, (tile.image // sharing * k * k + tap) * tap_height * tap_width)
            seen = Tile(tile.image, top, left, tile.rows, tile.cols)
            copy_window(advance(tile_taps, t * RUN), tile.cols + k - 1, plane_of_tap, tap_height, tap_width, seen)
        mix_tile(out, tile, source, border, tiles, tile_taps, windows, sums)


@helper
def _mix_in_place(out: Any, tile: Tile, source: Any, taps: Any, tiles: Any, windows: Pointer, sums: Pointer) -> None:
    """Filter a tile of every channel of an image, row by row, with taps that are read where they are."""
    channels, height, width = out.shape[1:]
    image, top, left, rows, cols = tile
    k, unroll, stride = tiles.k, tiles.unroll, cols + tiles.k - 1
    for channel in range(0, channels, CHANNELS):
        load_channels(windows, tiles.plane, stride, source, channel, window_of(tile, 0, k))
        for row in range(rows):
            for c in range(CHANNELS):
                fill(advance(sums, c * RUN), cols, 0)
            for t in range(0, k * k, len(unroll)):
                row_taps = pointer(taps, ((image * k * k + t) * height + top + row) * width + left)
                row_windows = advance(windows, (row + t // k) * stride + t % k)
                mix_run(sums, row_taps, row_windows, tiles.plane, cols, unroll, RUN, 1, height * width)
            for c in range(min(CHANNELS, channels - channel)):
                target = pointer(out, (image * channels + channel + c) * height * width)
                store_tile(target, width, Tile(image, top + row, left, 1, cols), advance(sums, c * RUN), stride)


@jit
def _d_taps_tiles(start: int, stop: int, buffers: Any, out: Any, d_out: Any, source: Any, tiles: Any) -> None:
    centres, windows, products = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    k, (height, width) = tiles.k, out.shape[2:]
    for item in range(start, stop):
        tile = tile_of(item, tiles, height, width)
        correlate_tile(products, source, d_out, 0, tile, tiles, windows, centres)
        for t in range(k * k):
            target = pointer(out, (tile.image * k * k + t) * height * width)
            store_tile(target, width, tile, advance(products, t * RUN), tile.cols + k - 1)
