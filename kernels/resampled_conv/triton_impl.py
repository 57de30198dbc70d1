"""GPU kernel of `resampled_conv`, in Triton: the source is read as it is, with weights that hold resampling and taps.

All channels of an output pixel see the same cells of the source with the same weights: the taps, each spread over the
cells that its place reads. A thread makes the weights of `ROWS` pixels below each other once, on the `DOWN` x `ACROSS`
cells that their windows share, and goes through the channels with them in registers. Doubling makes the 7 x 7 places of
a window little more than 7 x 7 cells, so this costs hardly more than the filter alone.

Where windows span more cells than that, they are taken a part at a time, and weights are made for each part. Nothing
depends on how the cells lie but the speed. Tensors are contiguous and not empty; shapes are those of `resampled_conv`.
"""

# Triton's dialect: constants in capitals, other arguments without annotations, tuples that grow by "+".
# ruff: noqa: N803, RUF005
# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from featup_kernels.launch import count_columns
from featup_kernels.resampled_conv.configs import ForwardConfig, forward_config
from featup_kernels.triton_common import accumulator, columns_of_program, on_device, zeros
from torch import Tensor

# The chunk too: each value would be compiled on its own, in seconds, and a stack of stages takes several.
SIZES = ["columns", "channels", "chunk", "height", "width", "lr_height", "lr_width"]


@triton.jit
def _cell(cells_ptr, place, mask, size):
    """The cell that a place reads (int32), and whether it is one of the source's."""
    cell = tl.load(cells_ptr + place, mask=mask, other=0)
    clamped = tl.minimum(tl.maximum(cell, 0), size - 1)
    return clamped.to(tl.int32), cell == clamped


@triton.jit
def _span(cells_ptr, first, exists, last, size, COUNT: tl.constexpr, TERMS: tl.constexpr):
    """First and last cell that the places from `first` on read, COUNT of them, none after `last`."""
    low = first * 0 + size - 1
    high = first * 0
    for i in range(0, COUNT):
        for q in tl.static_range(TERMS):
            cell, _ = _cell(cells_ptr, (first + i).to(tl.int64) * TERMS + q, exists & (first + i <= last), size)
            low = tl.where(first + i <= last, tl.minimum(low, cell), low)
            high = tl.where(first + i <= last, tl.maximum(high, cell), high)
    return low, high


@triton.jit
def _shares(
    cells_ptr, weights_ptr, place, mask, size, start, first,
    CELLS: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What a place takes of each of CELLS cells from `start` on; nothing of those before `first`.

    A cell that the source doesn't have gives NaN: looking for one before the launch would wait for the GPU.
    """
    shares = zeros(CELLS, BLOCK, ACC)
    for q in tl.static_range(TERMS):
        cell, valid = _cell(cells_ptr, place.to(tl.int64) * TERMS + q, mask, size)
        weight = tl.load(weights_ptr + place.to(tl.int64) * TERMS + q, mask=mask, other=0).to(ACC)
        weight = tl.where(valid, weight, float("nan"))
        weight = tl.where(cell < first, 0, weight)
        added = ()
        for u in tl.static_range(CELLS):
            added = added + (shares[u] + tl.where(cell - start == u, weight, 0),)
        shares = added
    return shares


@triton.jit
def _cell_weights(
    taps_ptr, row_cells_ptr, row_weights_ptr, column_cells_ptr, column_weights_ptr, exists, y, x,
    height, width, lr_height, lr_width, start_row, first_row, start_column, first_column,
    K: tl.constexpr, ROW_TERMS: tl.constexpr, COLUMN_TERMS: tl.constexpr, ROWS: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Weights of ROWS output pixels on DOWN x ACROSS cells: indexed (r, u, v), each [BLOCK]."""
    plane = tl.cast(height, tl.int64) * width
    across = ()
    for dx in tl.static_range(K):
        across = across + _shares(
            column_cells_ptr, column_weights_ptr, x + dx, exists, lr_width, start_column, first_column,
            ACROSS, COLUMN_TERMS, BLOCK, ACC,
        )  # fmt: skip
    weights = zeros(ROWS * DOWN * ACROSS, BLOCK, ACC)
    for dy in range(0, K):
        added = ()
        for r in tl.static_range(ROWS):
            mask = exists & (y + r < height)
            mixed = zeros(ACROSS, BLOCK, ACC)
            for dx in tl.static_range(K):
                ptrs = taps_ptr + (tl.cast(dy, tl.int64) * K + dx) * plane + r * width
                tap = tl.load(ptrs, mask=mask, other=0).to(ACC)
                sums = ()
                for v in tl.static_range(ACROSS):
                    sums = sums + (mixed[v] + tap * across[dx * ACROSS + v],)
                mixed = sums
            down = _shares(
                row_cells_ptr, row_weights_ptr, y + r + dy, mask, lr_height, start_row, first_row,
                DOWN, ROW_TERMS, BLOCK, ACC,
            )  # fmt: skip
            for u in tl.static_range(DOWN):
                for v in tl.static_range(ACROSS):
                    added = added + (weights[(r * DOWN + u) * ACROSS + v] + down[u] * mixed[v],)
        weights = added
    return weights


@triton.jit(do_not_specialize=SIZES)
def _resampled_conv_forward_kernel(
    source_ptr, taps_ptr, row_cells_ptr, row_weights_ptr, column_cells_ptr, column_weights_ptr, out_ptr,
    columns, channels, chunk, height, width, lr_height, lr_width,
    K: tl.constexpr, ROW_TERMS: tl.constexpr, COLUMN_TERMS: tl.constexpr, ROWS: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # Programs of the same pixels are neighbours: they share taps.
    chunks = (channels + chunk - 1) // chunk
    image, y, x, exists, _ = columns_of_program(tl.program_id(0) // chunks, columns, height, width, ROWS, BLOCK)
    plane = tl.cast(height, tl.int64) * width
    lr_plane = tl.cast(lr_height, tl.int64) * lr_width
    row_step = tl.cast(lr_width, tl.int64)
    pixel = y.to(tl.int64) * width + x
    taps_ptr += image * K * K * plane + pixel
    # Threads without a column read somewhere in the source, so that no cell needs a mask.
    source_ptr += tl.where(exists, image, 0) * channels * lr_plane
    out_ptr += image * channels * plane + pixel

    last_row = height + K - 2  # places of rows that a column of pixels lacks count for nothing
    top, bottom = _span(row_cells_ptr, y, exists, last_row, lr_height, K + ROWS - 1, ROW_TERMS)
    left, right = _span(column_cells_ptr, x, exists, width + K - 2, lr_width, K, COLUMN_TERMS)
    parts_down = (tl.max(tl.where(exists, bottom - top, 0), 0) + DOWN) // DOWN
    parts_across = (tl.max(tl.where(exists, right - left, 0), 0) + ACROSS) // ACROSS
    parts = parts_down * parts_across

    weights = zeros(ROWS * DOWN * ACROSS, BLOCK, ACC)
    begin = (tl.program_id(0) % chunks) * chunk
    for channel in range(begin, tl.minimum(begin + chunk, channels), CHANNELS):
        sums = zeros(CHANNELS * ROWS, BLOCK, ACC)
        for part in range(0, parts):
            # Parts that would pass the end of the source are moved back.
            first_row = top + part // parts_across * DOWN
            first_column = left + part % parts_across * ACROSS
            start_row = tl.minimum(first_row, lr_height - DOWN)
            start_column = tl.minimum(first_column, lr_width - ACROSS)
            if (channel == begin) | (parts > 1):
                weights = _cell_weights(
                    taps_ptr, row_cells_ptr, row_weights_ptr, column_cells_ptr, column_weights_ptr, exists, y, x,
                    height, width, lr_height, lr_width, start_row, first_row, start_column, first_column,
                    K, ROW_TERMS, COLUMN_TERMS, ROWS, DOWN, ACROSS, BLOCK, ACC,
                )  # fmt: skip
            corner = start_row.to(tl.int64) * lr_width + start_column
            for u in tl.static_range(DOWN):
                for v in tl.static_range(ACROSS):
                    added = ()
                    for c in tl.static_range(CHANNELS):
                        source_channel = tl.minimum(channel + c, channels - 1) if CHANNELS > 1 else channel
                        ptrs = source_ptr + (tl.cast(source_channel, tl.int64) * lr_plane + u * row_step + v) + corner
                        value = tl.load(ptrs).to(ACC)
                        for r in tl.static_range(ROWS):
                            weight = weights[(r * DOWN + u) * ACROSS + v]
                            added = added + (sums[c * ROWS + r] + weight * value,)
                    sums = added
        for c in tl.static_range(CHANNELS):
            ptrs = out_ptr + tl.cast(channel + c, tl.int64) * plane
            for r in tl.static_range(ROWS):
                mask = exists & (y + r < height) & (channel + c < channels)
                tl.store(ptrs + r * width, sums[c * ROWS + r], mask=mask)


def forward(
    source: Tensor, taps: Tensor, row_cells: Tensor, row_weights: Tensor, column_cells: Tensor, column_weights: Tensor,
    config: ForwardConfig | None = None,
) -> Tensor:  # fmt: skip
    """[B, C, H, W]; arguments as `resampled_conv`. `config`: constants of the kernel, by default `forward_config`'s."""
    batch, channels, lr_height, lr_width = source.shape
    height, width = taps.shape[2:]
    k = math.isqrt(taps.shape[1])
    terms = row_cells.shape[1], column_cells.shape[1]
    out = torch.empty((batch, channels, height, width), dtype=source.dtype, device=source.device)
    if config is None:
        itemsize = max(4, source.dtype.itemsize)
        config = forward_config(batch, channels, (lr_height, lr_width), (height, width), k, terms, itemsize)
    with on_device(source):
        _resampled_conv_forward_kernel[(config.programs(batch, channels, height, width),)](
            source, taps, row_cells, row_weights, column_cells, column_weights, out,
            count_columns(batch, height, width, config.rows), channels, config.chunk,
            height, width, lr_height, lr_width,
            K=k, ROW_TERMS=terms[0], COLUMN_TERMS=terms[1], ROWS=config.rows, DOWN=config.down, ACROSS=config.across,
            CHANNELS=config.channels, BLOCK=config.block, ACC=accumulator(out.dtype),
            num_warps=config.threads // 32,
        )  # fmt: skip
    return out
