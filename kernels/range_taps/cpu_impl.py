"""`range_taps` on the CPU: the keys are compared tile by tile and never unfolded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from featup_kernels.parallel import as_array, empty, run, work_dtype
from featup_kernels.tiles import (
    FAST_MATH,
    RUN,
    Pointer,
    Tile,
    advance,
    correlate_tile,
    cut_tiles,
    fill,
    helper,
    jit,
    mix_tile,
    pointer,
    round_up,
    run_tiles,
    store_tile,
    tile_of,
)
from numba import types
from numba.extending import overload
from torch import Tensor


def forward(keys: Tensor, temperature: Tensor, logits: Tensor) -> Tensor:
    """[B, k * k, H, W]; `logits` [k * k] are those of `spatial_logits`, keys contiguous and not empty."""
    k = round(len(logits) ** 0.5)
    batch, _, height, width = keys.shape
    work = work_dtype(keys)
    taps = empty(batch, k * k, height - k + 1, width - k + 1, dtype=work)
    scale, bias = temperature.to(work).numpy(), logits.to(work).numpy()
    tiles = cut_tiles(taps, k)
    run_tiles(_softmax_tiles, taps, tiles, as_array(keys), scale[()], bias, scratch=tiles.scratch())
    return taps.to(keys.dtype)


def backward(d_taps: Tensor, taps: Tensor, keys: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the keys and of the logits [k * k], the latter in the dtype of the temperature."""
    k = round(taps.shape[1] ** 0.5)
    batch, _, height, width = taps.shape
    work = work_dtype(keys)
    d_taps_array, taps_array = as_array(d_taps), as_array(taps)
    means = empty(batch, 1, height, width, dtype=work)
    d_logits = empty(batch * height, k * k, dtype=torch.float64)
    run(_means_rows, batch * height, (k * k,), work, means.numpy(), d_logits.numpy(), d_taps_array, taps_array)

    d_keys, scale = empty(*keys.shape, dtype=work), temperature.to(work).numpy()[()]
    tiles, arrays = cut_tiles(d_keys, k), (d_taps_array, taps_array, means.numpy(), as_array(keys))
    run_tiles(_d_keys_tiles, d_keys, tiles, *arrays, scale, scratch=tiles.scratch())
    return d_keys.to(keys.dtype), d_logits.sum(0).to(temperature.dtype)


def _exp(x: float) -> float:
    """e^x for x <= 0, in loops that LLVM can vectorise."""
    return math.exp(x)


@overload(_exp, {"fastmath": FAST_MATH}, strict=False)
def _compiled_exp(x: Any) -> Any:
    if x != types.float32:
        return lambda x: math.exp(x)
    per_ln2, ln2 = np.float32(1 / math.log(2)), np.float32(math.log(2))
    half, one, lowest = np.float32(0.5), np.float32(1), np.float32(-126)
    c2, c3, c4, c5, c6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))

    def exp32(x: float) -> float:
        # e^x = 2^n e^r with n whole and |r| <= ln(2) / 2, where seven terms of the series have an error below 2e-7.
        n = np.floor(x * per_ln2 + half)
        r = x - n * ln2
        series = one + r * (one + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * c6)))))
        n = n if n > lowest else lowest  # also when NaN, which r carries
        return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)

    return exp32


@jit
def _softmax_tiles(
    start: int, stop: int, buffers: Any, taps: Any, keys: Any, scale: float, bias: Any, tiles: Any
) -> None:
    centres, windows, scores = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    highest, total = centres, advance(centres, RUN)  # the centres are needed no more when these are
    k, (height, width) = tiles.k, taps.shape[2:]
    for item in range(start, stop):
        tile = tile_of(item, tiles, height, width)
        correlate_tile(scores, keys, keys, k // 2, tile, tiles, windows, centres)
        n = round_up((tile.rows - 1) * (tile.cols + k - 1) + tile.cols)
        fill(highest, n, -np.inf)
        for t in range(k * k):
            _scale_scores(advance(scores, t * RUN), highest, n, scale, bias[t])
        fill(total, n, 0)
        for t in range(k * k):
            _exp_scores(advance(scores, t * RUN), highest, total, n)
        for t in range(k * k):
            row = advance(scores, t * RUN)
            for x in range(n):
                row[x] /= total[x]
            target = pointer(taps, (tile.image * k * k + t) * height * width)
            store_tile(target, width, tile, row, tile.cols + k - 1)


@helper
def _scale_scores(scores: Pointer, highest: Pointer, n: int, scale: float, bias: float) -> None:
    for x in range(n):
        score = scale * scores[x] + bias
        scores[x] = score
        highest[x] = score if score > highest[x] else highest[x]


@helper
def _exp_scores(scores: Pointer, highest: Pointer, total: Pointer, n: int) -> None:
    for x in range(n):
        value = _exp(scores[x] - highest[x])
        scores[x] = value
        total[x] += value


@jit
def _means_rows(start: int, stop: int, buffers: Any, means: Any, d_logits: Any, d_taps: Any, taps: Any) -> None:
    """The mean of d_taps under the weights `taps`, and each row's part of the gradient of the logits."""
    _, count, height, width = taps.shape
    for row in range(start, stop):
        image, y = row // height, row % height
        mean = pointer(means, row * width)
        fill(mean, width, 0)
        for t in range(count):
            offset = ((image * count + t) * height + y) * width
            tap, d_tap = pointer(taps, offset), pointer(d_taps, offset)
            for x in range(width):
                mean[x] += tap[x] * d_tap[x]
        for t in range(count):
            offset = ((image * count + t) * height + y) * width
            tap, d_tap = pointer(taps, offset), pointer(d_taps, offset)
            total = 0.0
            for x in range(width):
                total += tap[x] * (d_tap[x] - mean[x])
            d_logits[row, t] = total


@helper
def _add_d_scores(
    target: Pointer, stride: int, scale: float, d_taps: Any, taps: Any, means: Any, t: int, tile: Tile
) -> None:
    """Add the scaled gradient of score t to the pixels of a tile; nothing outside the image."""
    image, top, left, rows, cols = tile
    _, count, height, width = taps.shape
    first, last = max(-left, 0), min(width - left, cols)
    for row in range(max(-top, 0), min(height - top, rows)):
        offset = ((image * count + t) * height + top + row) * width + left
        tap, d_tap = pointer(taps, offset), pointer(d_taps, offset)
        mean = pointer(means, (image * height + top + row) * width + left)
        to = advance(target, row * stride)
        for x in range(first, last):
            to[x] += scale * tap[x] * (d_tap[x] - mean[x])


@jit
def _d_keys_tiles(
    start: int, stop: int, buffers: Any, d_keys: Any, d_taps: Any, taps: Any, means: Any, keys: Any, scale: float,
    tiles: Any,
) -> None:  # fmt: skip
    """A filter of the keys, whose weights are the gradients of both scores between a key and a neighbour."""
    sums, windows, weights = pointer(buffers[0], 0), pointer(buffers[1], 0), pointer(buffers[2], 0)
    k, radius = tiles.k, tiles.k // 2
    for item in range(start, stop):
        tile = tile_of(item, tiles, keys.shape[2], keys.shape[3])
        image, top, left, rows, cols = tile
        stride, own = cols + k - 1, Tile(image, top - radius, left - radius, rows, cols)
        for t in range(k * k):
            target = advance(weights, t * RUN)
            fill(target, rows * stride, 0)
            _add_d_scores(target, stride, scale, d_taps, taps, means, t, own)
            seen = Tile(image, top - 2 * radius + t // k, left - 2 * radius + t % k, rows, cols)
            _add_d_scores(target, stride, scale, d_taps, taps, means, k * k - 1 - t, seen)
        mix_tile(d_keys, tile, keys, radius, tiles, weights, windows, sums)
