"""Building blocks of the CPU kernels, compiled by Numba.

A kernel works on tiles of the output, `rows` x `cols` pixels. It copies what a tile needs into small buffers that stay
in the cache: windows of the source, the width of the tile plus k - 1 wide, and one plane of the tile for each tap, laid
out with the row length of the windows. So a tile is *one* run of memory: for tap (dy, dx) the source of element x of
the run is element x + dy * stride + dx of the window. The elements between two rows are computed too, and thrown away.

Loops over a run are written for LLVM's vectoriser: the buffers have distances known when compiled, so that few checks
for overlap are left, and pointers take the place of arrays, whose negative indices would need a branch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numba
import torch
from featup_kernels.parallel import run
from llvmlite import ir
from numba import extending, types
from numba.np import linalg
from torch import Tensor

RUN = 1424  # elements between the planes of a tile; an odd number of cache lines, which spreads them in the cache
CHANNELS = 4  # treated together, so that a tap is loaded once for all
LANES = 16  # runs are rounded up to whole vectors
Pointer = Any  # what `pointer` and `advance` return
_intrinsic: Any = extending.intrinsic  # its functions are written for types and called with values
# Products may be fused with sums and sums reordered; NaN and infinity keep their meaning.
FAST_MATH = {"contract", "reassoc", "nsz"}
_STAMP = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _import_arrays() -> None:
    """Import Numba's functions of arrays, but not SciPy's linear algebra, for which it looks then.

    That takes longer than to load a kernel. Those of Numba's functions that need it look again.
    """
    look, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = look


_import_arrays()


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile on first use, and keep the result on disk where there is a place to write."""
    options |= {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        compiled: Any = numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(function, **options)
    # Numba compiles again what has changed in its own file only; kernels call functions of this one.
    with suppress(AttributeError):
        index = compiled._cache._cache_file
        index._source_stamp = index._source_stamp, _STAMP
    return compiled


def helper(function: Callable[..., Any], **options: Any) -> Any:
    """Compile for kernels to call. Python must not: its way in, a tenth of the compiler's work, is left out."""
    return jit(function, no_cpython_wrapper=True, **options)


def inline(function: Callable[..., Any]) -> Any:
    """Compile into each caller, so that its constants are known."""
    return helper(function, forceinline=True)


@_intrinsic
def pointer(typing_context: Any, array: types.Array, offset: types.Integer) -> Any:
    """The address of element `offset` of a contiguous array, whatever its rank."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return types.CPointer(array.dtype)(array, offset), generate


@_intrinsic
def advance(typing_context: Any, start: types.CPointer, offset: types.Integer) -> Any:
    """The address `offset` elements on."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return start(start, offset), generate


@extending.register_jitable(error_model="numpy")  # kernels call it, and Python does
def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Tiles(NamedTuple):
    """How a result is cut into tiles, for windows of side `k`."""

    rows: int
    cols: int
    k: int
    plane: int  # elements between the windows of two channels
    unroll: tuple[int, ...]  # as long as the part of the taps that a kernel takes at once

    def scratch(self) -> tuple[int, int, int]:
        """Elements of CHANNELS runs, of the windows of CHANNELS channels, and of a run for each tap."""
        return CHANNELS * RUN, CHANNELS * self.plane, self.k**2 * RUN


class Tile(NamedTuple):
    """Pixels of an image: `rows` x `cols` from (top, left) on, which may lie outside it."""

    image: int
    top: int
    left: int
    rows: int
    cols: int


def tile_shape(images: int, height: int, width: int, k: int, threads: int, most_cols: int = 128) -> tuple[int, int]:
    """Rows and columns of the tiles: as many as a run holds, but enough tiles to keep the threads busy."""
    cols = ceil_div(width, ceil_div(width, most_cols))
    rows = (RUN - LANES - cols) // (cols + k - 1) + 1
    rows = min(rows, max(4, height * images * ceil_div(width, cols) // threads), height)
    return ceil_div(height, ceil_div(height, rows)), cols


def cut_tiles(out: Tensor, k: int, most_cols: int = 128) -> Tiles:
    """The tiles of a result [B, C, H, W], on PyTorch's number of threads."""
    images, _, height, width = out.shape
    rows, cols = tile_shape(images, height, width, k, torch.get_num_threads(), most_cols)
    return Tiles(rows, cols, k, window_plane(rows, cols, k), unrolled(k))


def run_tiles(kernel: Callable[..., None], out: Tensor, tiles: Any, *arguments: Any, scratch: tuple[int, ...]) -> None:
    """Call `kernel(start, stop, buffers, out, *arguments, tiles)` for ranges of all tiles of a result [B, C, H, W].

    Args:
        tiles: `Tiles`, or another record that has `rows` and `cols`.
        scratch: elements of each buffer.
    """
    images, _, height, width = out.shape
    items = images * ceil_div(height, tiles.rows) * ceil_div(width, tiles.cols)
    run(kernel, items, scratch, out.dtype, out.numpy(), *arguments, tiles)


@helper
def tile_of(item: int, tiles: Any, height: int, width: int) -> Tile:
    """The tile of this number of images of this size."""
    down, across = ceil_div(height, tiles.rows), ceil_div(width, tiles.cols)
    tile = item % (down * across)
    top, left = tile // across * tiles.rows, tile % across * tiles.cols
    return Tile(item // (down * across), top, left, min(tiles.rows, height - top), min(tiles.cols, width - left))


@helper
def window_of(tile: Tile, border: int, k: int) -> Tile:
    """What the windows around a tile see in a source whose first pixel is `border` before that of the result."""
    return Tile(tile.image, tile.top - border, tile.left - border, tile.rows + k - 1, tile.cols + k - 1)


def window_plane(rows: int, cols: int, k: int) -> int:
    """Elements between the windows of two channels; again an odd number of cache lines."""
    return ceil_div((rows + k - 1) * (cols + k - 1) + LANES, 1024) * 1024 + 80


@cache
def unrolled(count: int) -> tuple[int, ...]:
    """A tuple as long as the part of `count` taps that a kernel takes at once: its length is known when compiling."""
    return (0,) * max(n for n in range(1, 17) if count % n == 0)


@helper
def round_up(n: int) -> int:
    """To whole vectors."""
    return (n + LANES - 1) // LANES * LANES


@helper
def copy_window(target: Pointer, stride: int, plane: Pointer, height: int, width: int, tile: Tile) -> None:
    """Copy the pixels of a tile of a plane to rows that are `stride` apart; zeros outside the plane."""
    _, top, left, rows, cols = tile
    if left == 0 and cols == width == stride and 0 <= top <= height - rows:  # rows without a gap: one long row
        plane = advance(plane, top * width)
        top, height, rows, cols, width = 0, 1, 1, rows * cols, rows * cols
    first = min(max(-left, 0), cols)
    last = max(min(width - left, cols), first)
    for row in range(rows):
        to = advance(target, row * stride)
        y = top + row
        inside = 0 <= y < height
        for x in range(first if inside else cols):
            to[x] = 0
        if inside:
            pixels = advance(plane, y * width + left)
            for x in range(first, last):
                to[x] = pixels[x]
            for x in range(last, cols):
                to[x] = 0


@helper
def store_tile(plane: Pointer, width: int, tile: Tile, values: Pointer, stride: int) -> None:
    """Copy the values of a tile, in rows that are `stride` apart, to its place in a plane of the output."""
    _, top, left, rows, cols = tile
    for row in range(rows):
        pixels = advance(plane, (top + row) * width + left)
        to_store = advance(values, row * stride)
        for x in range(cols):
            pixels[x] = to_store[x]


@helper
def fill(target: Pointer, n: int, value: float) -> None:
    for x in range(n):
        target[x] = value


@inline
def mix_run(
    sums: Pointer, taps: Pointer, windows: Pointer, plane: int, n: int, unroll: tuple[int, ...], apart: int, step: int,
    taps_apart: int,
) -> None:  # fmt: skip
    """Add to the sums of every channel a row of taps times the windows.

    sums[c, x] += taps[i, x] * windows[c, x + i * step]; planes of sums are `apart`, those of taps `taps_apart` and
    those of the windows `plane` apart.
    """
    window0, window1, window2, window3 = (
        windows, advance(windows, plane), advance(windows, 2 * plane), advance(windows, 3 * plane)
    )  # fmt: skip
    for x in range(n):
        sum0, sum1, sum2, sum3 = sums[x], sums[apart + x], sums[2 * apart + x], sums[3 * apart + x]
        for i in range(len(unroll)):
            tap = taps[i * taps_apart + x]
            sum0 += tap * window0[x + i * step]
            sum1 += tap * window1[x + i * step]
            sum2 += tap * window2[x + i * step]
            sum3 += tap * window3[x + i * step]
        sums[x], sums[apart + x], sums[2 * apart + x], sums[3 * apart + x] = sum0, sum1, sum2, sum3


@inline
def correlate_run(
    products: Pointer,
    centres: Pointer,
    windows: Pointer,
    plane: int,
    n: int,
    unroll: tuple[int, ...],
    apart: int,
    step: int,
) -> None:
    """Add to a row of products the sum over the channels of centres times windows.

    products[i, x] += sum over c of centres[c, x] * windows[c, x + i * step]; planes of products and centres are
    `apart`, those of the windows `plane` apart.
    """
    window0, window1, window2, window3 = (
        windows, advance(windows, plane), advance(windows, 2 * plane), advance(windows, 3 * plane)
    )  # fmt: skip
    for x in range(n):
        centre0, centre1, centre2, centre3 = (
            centres[x],
            centres[apart + x],
            centres[2 * apart + x],
            centres[3 * apart + x],
        )
        for i in range(len(unroll)):
            products[i * apart + x] += (
                centre0 * window0[x + i * step]
                + centre1 * window1[x + i * step]
                + centre2 * window2[x + i * step]
                + centre3 * window3[x + i * step]
            )


@helper
def load_channels(target: Pointer, distance: int, stride: int, images: Any, channel: int, tile: Tile) -> None:
    """Copy a tile of the next CHANNELS channels of images [B, C, H, W]; zeros where there are no more."""
    _, channels, height, width = images.shape
    for c in range(CHANNELS):
        window = advance(target, c * distance)
        if channel + c < channels:
            source = pointer(images, (tile.image * channels + channel + c) * height * width)
            copy_window(window, stride, source, height, width, tile)
        else:
            fill(window, tile.rows * stride, 0)


@helper
def mix_tile(
    out: Any, tile: Tile, source: Any, border: int, tiles: Any, taps: Pointer, windows: Pointer, sums: Pointer
) -> None:
    """Filter a tile of every channel of an image with the taps of the tile, and store it."""
    channels, height, width = out.shape[1:]
    k, unroll = tiles.k, tiles.unroll
    window = window_of(tile, border, k)
    stride = window.cols
    n = round_up((tile.rows - 1) * stride + tile.cols)
    for channel in range(0, channels, CHANNELS):
        load_channels(windows, tiles.plane, stride, source, channel, window)
        for c in range(CHANNELS):
            fill(advance(sums, c * RUN), n, 0)
        for t in range(0, k * k, len(unroll)):
            seen = advance(windows, t // k * stride + t % k)
            mix_run(sums, advance(taps, t * RUN), seen, tiles.plane, n, unroll, RUN, 1, RUN)
        for c in range(min(CHANNELS, channels - channel)):
            target = pointer(out, (tile.image * channels + channel + c) * height * width)
            store_tile(target, width, tile, advance(sums, c * RUN), stride)


@helper
def correlate_tile(
    products: Pointer, source: Any, centre: Any, shift: int, tile: Tile, tiles: Any, windows: Pointer, centres: Pointer
) -> None:
    """Multiply each pixel of a tile of `centre` with its window in `source`, and sum over the channels.

    The first of those pixels lies `shift` below and right of the tile's.
    """
    k, unroll = tiles.k, tiles.unroll
    window = window_of(tile, 0, k)
    middle = Tile(tile.image, tile.top + shift, tile.left + shift, tile.rows, tile.cols)
    stride = window.cols
    n = round_up((tile.rows - 1) * stride + tile.cols)
    fill(products, k * k * RUN, 0)
    for channel in range(0, source.shape[1], CHANNELS):
        load_channels(windows, tiles.plane, stride, source, channel, window)
        load_channels(centres, RUN, stride, centre, channel, middle)
        for t in range(0, k * k, len(unroll)):
            seen = advance(windows, t // k * stride + t % k)
            correlate_run(advance(products, t * RUN), centres, seen, tiles.plane, n, unroll, RUN, 1)
