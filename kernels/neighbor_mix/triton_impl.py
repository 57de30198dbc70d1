"""GPU kernels of `neighbor_mix`, in Triton.

Every neighbour of an output pixel lies at the same fraction between its low-resolution pixels, and clamping a position
is clamping those pixels. So k x k taps and one pair of fractions make (k + 1) x (k + 1) weights of low-resolution
pixels (the corners below), and no neighbour is interpolated on its own. All kernels gather, so no sum depends on the
order of threads. Tensors are contiguous and not empty; their shapes are those of `neighbor_mix`. A `config` is the
kernel's constants; None takes those of `configs.py`.
"""

# Triton's dialect: constants in capitals, other arguments without annotations, tuples that grow by "+".
# ruff: noqa: N803, RUF005
# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from featup_kernels.launch import TapsConfig, count_columns
from featup_kernels.neighbor_mix.configs import ForwardConfig, SourceConfig, forward_config, source_config, taps_config
from featup_kernels.triton_common import accumulator, columns_of_program, on_device, sum_of_parts, zeros
from torch import Tensor

SIZES = ["columns", "channels", "height", "width", "lr_height", "lr_width"]


@triton.jit
def _position(index, size, lr_size, ACC: tl.constexpr):
    """Cell and fraction of output pixels: they lie at `cell + fraction` low-resolution pixels, cell from -1 up."""
    whole = 2 * tl.cast(size, tl.int64)
    numerator = (2 * tl.cast(index, tl.int64) + 1) * lr_size + size  # of the position plus 1, which is not negative
    return (numerator // whole).to(tl.int32) - 1, (numerator % whole).to(ACC) / whole.to(ACC)


@triton.jit
def _first_pixel(cell, size, lr_size):
    """The first output pixel of this cell or a later one; `size` if there is none."""
    numerator = (2 * tl.cast(cell, tl.int64) + 1) * size + lr_size - 1
    return tl.minimum(tl.maximum(numerator // (2 * tl.cast(lr_size, tl.int64)), 0), size)


@triton.jit
def _clamped(index, size):
    return tl.minimum(tl.maximum(index, 0), size - 1)


@triton.jit
def _corner_weights(
    taps_ptr, mask, plane, y_fraction, x_fraction, K: tl.constexpr, TAP_ROWS: tl.constexpr, ACC: tl.constexpr
):
    """Weights of the corners of TAP_ROWS rows of taps: (TAP_ROWS + 1) * (K + 1) of [BLOCK], row-major."""
    nothing = x_fraction * 0
    above = ()
    for _ in tl.static_range(K + 1):
        above = above + (nothing,)
    weights = ()
    for row in tl.static_range(TAP_ROWS + 1):
        below = ()
        left = nothing
        for column in tl.static_range(K + 1):
            if row < TAP_ROWS and column < K:
                right = tl.load(taps_ptr + (row * K + column) * plane, mask=mask, other=0).to(ACC)
            else:
                right = nothing
            below = below + ((1 - x_fraction) * right + x_fraction * left,)
            left = right
        for column in tl.static_range(K + 1):
            weights = weights + ((1 - y_fraction) * below[column] + y_fraction * above[column],)
        above = below
    return weights


@triton.jit
def _weights_of_rows(
    taps_ptr, exists, y, first_cell, height, width, lr_height, x_fraction,
    K: tl.constexpr, TAP_ROWS: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Corner weights of each output row on the SPAN low-resolution rows that they share: indexed (row, i, j)."""
    plane = tl.cast(height, tl.int64) * width
    nothing = x_fraction * 0
    shared = ()
    for r in tl.static_range(ROWS):
        cell, y_fraction = _position(y + r, height, lr_height, ACC)
        mask = exists & (y + r < height)
        own = _corner_weights(taps_ptr + r * width, mask, plane, y_fraction, x_fraction, K, TAP_ROWS, ACC)
        for i in tl.static_range(SPAN):
            for j in tl.static_range(K + 1):
                weight = nothing
                if i <= TAP_ROWS:
                    weight = own[i * (K + 1) + j]
                if SPAN > TAP_ROWS + 1:
                    if i > 0:
                        weight = tl.where(cell == first_cell, weight, own[(i - 1) * (K + 1) + j])
                    else:
                        weight = tl.where(cell == first_cell, weight, nothing)
                shared = shared + (weight,)
    return shared


@triton.jit(do_not_specialize=SIZES)
def _neighbor_mix_forward_kernel(
    lr_source_ptr, taps_ptr, out_ptr, columns, channels, height, width, lr_height, lr_width,
    K: tl.constexpr, TAP_ROWS: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr,
    CHANNELS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    chunks = (channels + CHUNK - 1) // CHUNK
    image, y, x, exists, _ = columns_of_program(tl.program_id(0) // chunks, columns, height, width, ROWS, BLOCK)
    plane = tl.cast(height, tl.int64) * width
    lr_plane = tl.cast(lr_height, tl.int64) * lr_width
    pixel = y.to(tl.int64) * width + x
    taps_ptr += image * K * K * plane + pixel
    lr_source_ptr += image * channels * lr_plane
    out_ptr += image * channels * plane + pixel
    cell = _position(y, height, lr_height, ACC)[0]
    column, x_fraction = _position(x, width, lr_width, ACC)
    if TAP_ROWS == K:
        weights = _weights_of_rows(
            taps_ptr, exists, y, cell, height, width, lr_height, x_fraction, K, TAP_ROWS, ROWS, SPAN, ACC
        )
    first = (tl.program_id(0) % chunks) * CHUNK
    for channel in range(first, tl.minimum(first + CHUNK, channels), CHANNELS):
        sums = zeros(CHANNELS * ROWS, BLOCK, ACC)
        for tap_row in range(0, K, TAP_ROWS):
            if TAP_ROWS < K:
                weights = _weights_of_rows(
                    taps_ptr + tap_row * K * plane, exists, y, cell, height, width, lr_height, x_fraction,
                    K, TAP_ROWS, ROWS, SPAN, ACC,
                )  # fmt: skip
            for i in tl.static_range(SPAN):
                lr_row = _clamped(cell - K // 2 + tap_row + i, lr_height).to(OFFSET) * lr_width
                for j in tl.static_range(K + 1):
                    corner = lr_row + _clamped(column - K // 2 + j, lr_width)
                    added = ()
                    for c in tl.static_range(CHANNELS):
                        ptrs = lr_source_ptr + tl.cast(channel + c, tl.int64) * lr_plane + corner
                        mask = exists & (x < tl.where(channel + c < channels, width, 0))
                        value = tl.load(ptrs, mask=mask, other=0).to(ACC)
                        for r in tl.static_range(ROWS):
                            weight = weights[(r * SPAN + i) * (K + 1) + j]
                            added = added + (sums[c * ROWS + r] + weight * value,)
                    sums = added
        for c in tl.static_range(CHANNELS):
            ptrs = out_ptr + tl.cast(channel + c, tl.int64) * plane
            for r in tl.static_range(ROWS):
                mask = exists & (y + r < tl.where(channel + c < channels, height, 0))
                tl.store(ptrs + r * width, sums[c * ROWS + r], mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _neighbor_mix_d_taps_kernel(
    d_out_ptr, lr_source_ptr, d_taps_ptr, columns, channels, height, width, lr_height, lr_width,
    K: tl.constexpr, TAP_ROWS: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    chunks: tl.constexpr = K // TAP_ROWS
    index = tl.program_id(0) // chunks
    tap_row = (tl.program_id(0) % chunks) * TAP_ROWS
    image, y, x, exists, part = columns_of_program(index, columns, height, width, ROWS, BLOCK, PARTS)
    plane = tl.cast(height, tl.int64) * width
    lr_plane = tl.cast(lr_height, tl.int64) * lr_width
    d_out_ptr += (image * channels + part) * plane + y.to(tl.int64) * width + x
    lr_source_ptr += (image * channels + part) * lr_plane
    first_cell = _position(y, height, lr_height, ACC)[0]
    column, x_fraction = _position(x, width, lr_width, ACC)

    # Each part sums channels of its own; they meet at the end.
    sums = zeros(SPAN * (K + 1) * ROWS, BLOCK * PARTS, ACC)
    for start in range(0, channels, PARTS):
        wanted = exists & (part < channels - start)
        gradients = ()
        for r in tl.static_range(ROWS):
            ptrs = d_out_ptr + tl.cast(start, tl.int64) * plane + r * width
            gradients = gradients + (tl.load(ptrs, mask=wanted & (y + r < height), other=0).to(ACC),)
        added = ()
        for i in tl.static_range(SPAN):
            lr_row = _clamped(first_cell - K // 2 + tap_row + i, lr_height).to(OFFSET) * lr_width
            for j in tl.static_range(K + 1):
                corner = lr_row + _clamped(column - K // 2 + j, lr_width)
                ptrs = lr_source_ptr + tl.cast(start, tl.int64) * lr_plane + corner
                value = tl.load(ptrs, mask=wanted, other=0).to(ACC)
                for r in tl.static_range(ROWS):
                    added = added + (sums[(i * (K + 1) + j) * ROWS + r] + gradients[r] * value,)
        sums = added

    image, out_y, out_x, exists, _ = columns_of_program(index, columns, height, width, ROWS, BLOCK)
    d_taps_ptr += (image * K * K + tap_row * K) * plane + out_y.to(tl.int64) * width + out_x
    for r in tl.static_range(ROWS):
        cell, y_fraction = _position(y + r, height, lr_height, ACC)
        above = ()
        for i in tl.static_range(TAP_ROWS + 1):
            corners = ()
            for j in tl.static_range(K + 1):
                corner_sum = sums[(i * (K + 1) + j) * ROWS + r]
                if SPAN > TAP_ROWS + 1:
                    lower = sums[((i + 1) * (K + 1) + j) * ROWS + r]
                    corner_sum = tl.where(cell == first_cell, corner_sum, lower)
                corners = corners + (corner_sum,)
            below = ()
            for dx in tl.static_range(K):
                below = below + ((1 - x_fraction) * corners[dx] + x_fraction * corners[dx + 1],)
            if i > 0:
                for dx in tl.static_range(K):
                    total = sum_of_parts((1 - y_fraction) * above[dx] + y_fraction * below[dx], BLOCK, PARTS)
                    ptrs = d_taps_ptr + ((i - 1) * K + dx) * plane + r * width
                    tl.store(ptrs, total, mask=exists & (out_y + r < height))
            above = below


@triton.jit(do_not_specialize=SIZES)
def _neighbor_mix_d_source_kernel(
    d_out_ptr, taps_ptr, d_source_ptr, channels, height, width, lr_height, lr_width,
    K: tl.constexpr, TAP_ROWS: tl.constexpr, LR_ROWS: tl.constexpr, LR_COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # A program owns LR_ROWS x LR_COLUMNS low-resolution pixels. It scans the rectangle of output pixels that reach
    # them, a strip of BLOCK columns after the other; each thread keeps a sum for each corner column, and these meet
    # in the low-resolution columns at the end of a strip. Programs of the same channels run together: they share rows.
    row_blocks = (lr_height + LR_ROWS - 1) // LR_ROWS
    column_blocks = (lr_width + LR_COLUMNS - 1) // LR_COLUMNS
    groups = (channels + CHANNELS - 1) // CHANNELS
    program = tl.program_id(0)
    first_row = (program % row_blocks) * LR_ROWS
    program = program // row_blocks
    first_column = (program % column_blocks) * LR_COLUMNS
    program = program // column_blocks
    channel = (program % groups) * CHANNELS + tl.arange(0, CHANNELS)
    image = (program // groups).to(tl.int64)
    plane = tl.cast(height, tl.int64) * width
    plane_index = image * channels + channel
    d_out_ptr += plane_index[:, None] * plane
    taps_ptr += image * K * K * plane
    lr_columns = first_column + tl.arange(0, LR_COLUMNS)

    top = _first_pixel(first_row - K // 2 - 1, height, lr_height)
    bottom = _first_pixel(first_row + LR_ROWS + K // 2, height, lr_height)
    left = _first_pixel(first_column - K // 2 - 1, width, lr_width)
    right = _first_pixel(first_column + LR_COLUMNS + K // 2, width, lr_width)
    results = ()
    for _ in tl.static_range(LR_ROWS):
        results = results + (tl.zeros((CHANNELS, LR_COLUMNS), ACC),)
    for strip in range(left, right, BLOCK):
        x = strip + tl.arange(0, BLOCK)
        inside = x < right
        mask = inside[None, :] & (channel < channels)[:, None]
        cell_x, x_fraction = _position(x, width, lr_width, ACC)
        sums = ()
        for _ in tl.static_range((K + 1) * LR_ROWS):
            sums = sums + (tl.zeros((CHANNELS, BLOCK), ACC),)
        for y in range(top, bottom):
            pixel = tl.cast(y, tl.int64) * width + x
            value = tl.load(d_out_ptr + pixel[None, :], mask=mask, other=0).to(ACC)
            cell_y, y_fraction = _position(y, height, lr_height, ACC)
            mixed = ()
            for _ in tl.static_range(K * LR_ROWS):
                mixed = mixed + (x_fraction * 0,)
            for start in range(0, K, TAP_ROWS):
                added = ()
                for row in tl.static_range(TAP_ROWS):
                    above = _clamped(cell_y + start + row - K // 2, lr_height)
                    below = _clamped(cell_y + start + row - K // 2 + 1, lr_height)
                    reaches = (below >= first_row) & (above < first_row + LR_ROWS)
                    reached = x < tl.where(reaches, right, 0)
                    shares = ()
                    for u in tl.static_range(LR_ROWS):
                        share = tl.where(above == first_row + u, 1 - y_fraction, 0)
                        share += tl.where(below == first_row + u, y_fraction, 0)
                        shares = shares + (share,)
                    added = ()
                    for dx in tl.static_range(K):
                        ptrs = taps_ptr + ((start + row) * K + dx) * plane + pixel
                        tap = tl.load(ptrs, mask=reached, other=0).to(ACC)
                        for u in tl.static_range(LR_ROWS):
                            added = added + (mixed[dx * LR_ROWS + u] + shares[u] * tap,)
                    mixed = added
            added = ()
            for j in tl.static_range(K + 1):
                for u in tl.static_range(LR_ROWS):
                    weight = x_fraction * 0
                    if j < K:
                        weight += (1 - x_fraction) * mixed[j * LR_ROWS + u]
                    if j > 0:
                        weight += x_fraction * mixed[(j - 1) * LR_ROWS + u]
                    added = added + (sums[j * LR_ROWS + u] + weight[None, :] * value,)
            sums = added
        first_cell = _position(strip, width, lr_width, ACC)[0]
        last_cell = _position(tl.minimum(strip + BLOCK, right) - 1, width, lr_width, ACC)[0]
        begin = tl.maximum(first_cell - K // 2, first_column)
        end = tl.minimum(tl.minimum(last_cell + K // 2 + 2, first_column + LR_COLUMNS), lr_width)
        for v in range(begin, end):
            met = ()
            for u in tl.static_range(LR_ROWS):
                total = tl.zeros((CHANNELS, BLOCK), ACC)
                for j in tl.static_range(K + 1):
                    hit = _clamped(cell_x - K // 2 + j, lr_width) == v
                    total += tl.where(hit[None, :], sums[j * LR_ROWS + u], 0)
                total_of_column = tl.sum(total, 1)[:, None]
                met = met + (results[u] + tl.where((lr_columns == v)[None, :], total_of_column, 0),)
            results = met

    for u in tl.static_range(LR_ROWS):
        row = first_row + u
        ptrs = d_source_ptr + (plane_index[:, None] * lr_height + row) * lr_width + lr_columns[None, :]
        mask = (channel < channels)[:, None] & (lr_columns < tl.where(row < lr_height, lr_width, 0))[None, :]
        tl.store(ptrs, results[u], mask=mask)


def forward(lr_source: Tensor, taps: Tensor, config: ForwardConfig | None = None) -> Tensor:
    """out of `neighbor_mix`: [B, C, H, W]."""
    batch, channels, lr_height, lr_width = lr_source.shape
    k = math.isqrt(taps.shape[1])
    height, width = taps.shape[2:]
    out = torch.empty((batch, channels, height, width), dtype=lr_source.dtype, device=lr_source.device)
    config = config or forward_config(channels, height, lr_height, k)
    columns = count_columns(batch, height, width, config.rows)
    with on_device(lr_source):
        _neighbor_mix_forward_kernel[(config.programs(batch, channels, height, width),)](
            lr_source, taps, out, columns, channels, height, width, lr_height, lr_width,
            K=k, TAP_ROWS=config.tap_rows, ROWS=config.rows, SPAN=_span(config.tap_rows, config.rows),
            CHANNELS=config.channels, CHUNK=config.chunk, BLOCK=config.block, ACC=accumulator(out.dtype),
            OFFSET=_offset_type(lr_source), num_warps=config.threads // 32,
        )  # fmt: skip
    return out


def d_source(d_out: Tensor, taps: Tensor, size: tuple[int, int], config: SourceConfig | None = None) -> Tensor:
    """Gradient of the source, [B, C, *size]: every low-resolution pixel gathers from the output pixels around it."""
    batch, channels, height, width = d_out.shape
    k = math.isqrt(taps.shape[1])
    d_source = torch.empty((batch, channels, *size), dtype=d_out.dtype, device=d_out.device)
    config = config or source_config(channels, size[1], width, k)
    with on_device(d_out):
        _neighbor_mix_d_source_kernel[(config.programs(batch, channels, *size),)](
            d_out, taps, d_source, channels, height, width, *size,
            K=k, TAP_ROWS=config.tap_rows, LR_ROWS=config.lr_rows, LR_COLUMNS=config.lr_columns,
            CHANNELS=config.channels, BLOCK=config.block, ACC=accumulator(d_out.dtype),
            num_warps=config.threads // 32,
        )  # fmt: skip
    return d_source


def d_taps(d_out: Tensor, lr_source: Tensor, k: int, config: TapsConfig | None = None) -> Tensor:
    """Gradient of the taps, [B, k * k, H, W]: sums for the corners first, then their mixture for each tap."""
    batch, channels, height, width = d_out.shape
    lr_height, lr_width = lr_source.shape[2:]
    d_taps = torch.empty((batch, k * k, height, width), dtype=d_out.dtype, device=d_out.device)
    config = config or taps_config(channels, height, lr_height, k)
    columns = count_columns(batch, height, width, config.rows)
    with on_device(d_out):
        _neighbor_mix_d_taps_kernel[(config.programs(batch, k, height, width),)](
            d_out, lr_source, d_taps, columns, channels, height, width, lr_height, lr_width,
            K=k, TAP_ROWS=config.tap_rows, ROWS=config.rows, SPAN=_span(config.tap_rows, config.rows),
            BLOCK=config.block, PARTS=config.parts, ACC=accumulator(d_out.dtype), OFFSET=_offset_type(lr_source),
            num_warps=config.threads // 32,
        )  # fmt: skip
    return d_taps


def _span(tap_rows: int, rows: int) -> int:
    """Low-resolution rows under `tap_rows` rows of taps of all output rows of a thread."""
    return tap_rows + (1 if rows == 1 else 2)


def _offset_type(lr_source: Tensor) -> tl.dtype:
    """Of offsets within one channel, of which a thread keeps many: half the registers where 32 bits do."""
    return tl.int32 if lr_source.stride(1) < 2**31 else tl.int64
