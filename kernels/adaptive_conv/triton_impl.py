"""GPU kernels of `adaptive_conv`, in Triton.

All three gather, so no sum depends on the order of threads. A thread computes `ROWS` pixels below each other in several
channels: a source value serves all those rows, and a tap all those channels. Tensors are contiguous and not empty;
their shapes are those of `adaptive_conv`. A `config` is the kernel's constants; None takes those of `configs.py`.
"""

# Triton's dialect: constants in capitals, other arguments without annotations, tuples that grow by "+".
# ruff: noqa: N803, RUF005
# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from featup_kernels.adaptive_conv.configs import FilterConfig, filter_config, taps_config
from featup_kernels.launch import TapsConfig, count_columns
from featup_kernels.triton_common import accumulator, columns_of_program, on_device, sum_of_parts, zeros
from torch import Tensor

SIZES = ["columns", "channels", "height", "width"]


@triton.jit
def _add_products(sums, values, taps, row, K: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Add values (dx, channel) times taps (dx, r) to the sums (r, channel) of those rows whose window holds `row`."""
    added = ()
    for r in tl.static_range(ROWS):
        products = ()
        for c in tl.static_range(CHANNELS):
            products = products + (sums[r * CHANNELS + c],)
        if (row >= r) & (row - r < K):
            totals = ()
            for c in tl.static_range(CHANNELS):
                total = products[c]
                for dx in tl.static_range(K):
                    total += taps[dx * ROWS + r] * values[dx * CHANNELS + c]
                totals = totals + (total,)
            products = totals
        added = added + products
    return added


@triton.jit(do_not_specialize=SIZES)
def _adaptive_conv_forward_kernel(
    source_ptr, taps_ptr, out_ptr, columns, channels, height, width,
    K: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    groups = (channels + CHANNELS * PARTS - 1) // (CHANNELS * PARTS)
    index = tl.program_id(0) // groups
    image, y, x, exists, part = columns_of_program(index, columns, height, width, ROWS, BLOCK, PARTS)
    channel = ((tl.program_id(0) % groups) * PARTS + part) * CHANNELS
    source_height = height + K - 1
    source_width = width + K - 1
    plane = tl.cast(height, tl.int64) * width
    source_plane = tl.cast(source_height, tl.int64) * source_width
    pixel = y.to(tl.int64) * width + x
    source_ptr += (image * channels + channel) * source_plane + y.to(tl.int64) * source_width + x
    taps_ptr += image * K * K * plane + pixel
    out_ptr += (image * channels + channel) * plane + pixel

    sums = zeros(CHANNELS * ROWS, BLOCK * PARTS, ACC)
    for row in range(0, K + ROWS - 1):
        inside = exists & (y + row < source_height)
        values = ()
        taps = ()
        for dx in tl.static_range(K):
            for c in tl.static_range(CHANNELS):
                ptrs = source_ptr + c * source_plane + tl.cast(row, tl.int64) * source_width + dx
                values = values + (tl.load(ptrs, mask=inside & (channel + c < channels), other=0).to(ACC),)
            for r in tl.static_range(ROWS):
                # Row y + r meets this source row through tap row `row - r`, if there is such a row.
                ptrs = taps_ptr + ((row - r) * K + dx) * plane + r * width
                mask = exists & (y + r < tl.where((row >= r) & (row - r < K), height, 0))
                taps = taps + (tl.load(ptrs, mask=mask, other=0).to(ACC),)
        sums = _add_products(sums, values, taps, row, K, ROWS, CHANNELS)
    for c in tl.static_range(CHANNELS):
        for r in tl.static_range(ROWS):
            mask = exists & (y + r < height) & (channel + c < channels)
            tl.store(out_ptr + c * plane + r * width, sums[r * CHANNELS + c], mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _adaptive_conv_d_source_kernel(
    d_out_ptr, taps_ptr, d_source_ptr, columns, channels, height, width,
    K: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    source_height = height + K - 1
    source_width = width + K - 1
    groups = (channels + CHANNELS * PARTS - 1) // (CHANNELS * PARTS)
    index = tl.program_id(0) // groups
    image, y, x, exists, part = columns_of_program(index, columns, source_height, source_width, ROWS, BLOCK, PARTS)
    channel = ((tl.program_id(0) % groups) * PARTS + part) * CHANNELS
    plane = tl.cast(height, tl.int64) * width
    source_plane = tl.cast(source_height, tl.int64) * source_width
    pixel = y.to(tl.int64) * width + x
    d_out_ptr += (image * channels + channel) * plane + pixel
    taps_ptr += image * K * K * plane + pixel
    d_source_ptr += (image * channels + channel) * source_plane + y.to(tl.int64) * source_width + x

    sums = zeros(CHANNELS * ROWS, BLOCK * PARTS, ACC)
    for row in range(0, K + ROWS - 1):
        down = row - (K - 1)
        reached_row = exists & (y + down >= 0) & (y + down < height)
        values = ()
        taps = ()
        for dx in tl.static_range(K):
            reached = reached_row & (x >= dx) & (x < width + dx)
            step = tl.cast(down, tl.int64) * width - dx
            for c in tl.static_range(CHANNELS):
                mask = reached & (channel + c < channels)
                values = values + (tl.load(d_out_ptr + c * plane + step, mask=mask, other=0).to(ACC),)
            for r in tl.static_range(ROWS):
                # Output row y + down meets source row y + r through tap row r - down, if there is such a row.
                ptrs = taps_ptr + ((r - down) * K + dx) * plane + step
                mask = reached & (y < tl.where((row >= r) & (row - r < K), source_height, 0))
                taps = taps + (tl.load(ptrs, mask=mask, other=0).to(ACC),)
        sums = _add_products(sums, values, taps, row, K, ROWS, CHANNELS)
    for c in tl.static_range(CHANNELS):
        for r in tl.static_range(ROWS):
            mask = exists & (y + r < source_height) & (channel + c < channels)
            tl.store(d_source_ptr + c * source_plane + r * source_width, sums[r * CHANNELS + c], mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _adaptive_conv_d_taps_kernel(
    d_out_ptr, source_ptr, d_taps_ptr, columns, channels, height, width,
    K: tl.constexpr, TAP_ROWS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    chunks: tl.constexpr = K // TAP_ROWS
    index = tl.program_id(0) // chunks
    tap_row = (tl.program_id(0) % chunks) * TAP_ROWS
    image, y, x, exists, part = columns_of_program(index, columns, height, width, ROWS, BLOCK, PARTS)
    source_height = height + K - 1
    source_width = width + K - 1
    plane = tl.cast(height, tl.int64) * width
    source_plane = tl.cast(source_height, tl.int64) * source_width
    d_out_ptr += (image * channels + part) * plane + y.to(tl.int64) * width + x
    source_ptr += (image * channels + part) * source_plane + (y + tap_row).to(tl.int64) * source_width + x

    # Each part sums channels of its own; they meet at the end.
    sums = zeros(TAP_ROWS * K * ROWS, BLOCK * PARTS, ACC)
    for start in range(0, channels, PARTS):
        wanted = exists & (part < channels - start)
        gradients = ()
        for r in tl.static_range(ROWS):
            ptrs = d_out_ptr + tl.cast(start, tl.int64) * plane + r * width
            gradients = gradients + (tl.load(ptrs, mask=wanted & (y + r < height), other=0).to(ACC),)
        values = ()
        for row in tl.static_range(TAP_ROWS + ROWS - 1):
            inside = wanted & (y + tap_row + row < source_height)
            for dx in tl.static_range(K):
                ptrs = source_ptr + tl.cast(start, tl.int64) * source_plane + row * source_width + dx
                values = values + (tl.load(ptrs, mask=inside, other=0).to(ACC),)
        added = ()
        for t in tl.static_range(TAP_ROWS * K):
            for r in tl.static_range(ROWS):
                added = added + (sums[t * ROWS + r] + gradients[r] * values[r * K + t],)
        sums = added
    image, y, x, exists, _ = columns_of_program(index, columns, height, width, ROWS, BLOCK)
    d_taps_ptr += (image * K * K + tap_row * K) * plane + y.to(tl.int64) * width + x
    for t in tl.static_range(TAP_ROWS * K):
        for r in tl.static_range(ROWS):
            total = sum_of_parts(sums[t * ROWS + r], BLOCK, PARTS)
            tl.store(d_taps_ptr + t * plane + r * width, total, mask=exists & (y + r < height))


def forward(source: Tensor, taps: Tensor, config: FilterConfig | None = None) -> Tensor:
    """out of `adaptive_conv`: [B, C, H, W]."""
    out = torch.empty((*source.shape[:2], *taps.shape[2:]), dtype=source.dtype, device=source.device)
    _filter(_adaptive_conv_forward_kernel, source, taps, out, config)
    return out


def d_source(d_out: Tensor, taps: Tensor, size: tuple[int, int], config: FilterConfig | None = None) -> Tensor:
    """Gradient of the source, [B, C, *size]: every source pixel gathers from the windows that hold it."""
    d_source = torch.empty((*d_out.shape[:2], *size), dtype=d_out.dtype, device=d_out.device)
    _filter(_adaptive_conv_d_source_kernel, d_out, taps, d_source, config)
    return d_source


def d_taps(d_out: Tensor, source: Tensor, k: int, config: TapsConfig | None = None) -> Tensor:
    """Gradient of the taps, [B, k * k, H, W]: the sums of all taps of a pixel at once, in registers."""
    batch, channels, height, width = d_out.shape
    d_taps = torch.empty((batch, k * k, height, width), dtype=d_out.dtype, device=d_out.device)
    config = config or taps_config(batch, channels, height, width, k)
    columns = count_columns(batch, height, width, config.rows)
    with on_device(d_out):
        _adaptive_conv_d_taps_kernel[(config.programs(batch, k, height, width),)](
            d_out, source, d_taps, columns, channels, height, width,
            K=k, TAP_ROWS=config.tap_rows, ROWS=config.rows, BLOCK=config.block, PARTS=config.parts,
            ACC=accumulator(d_out.dtype), num_warps=config.threads // 32,
        )  # fmt: skip
    return d_taps


def _filter(kernel: Any, data: Tensor, taps: Tensor, result: Tensor, config: FilterConfig | None) -> None:
    """Launch the forward or the d_source kernel."""
    batch, channels, height, width = result.shape
    k = math.isqrt(taps.shape[1])
    config = config or filter_config(channels, height, k)
    columns = count_columns(batch, height, width, config.rows)
    with on_device(data):
        kernel[(config.programs(*result.shape),)](
            data, taps, result, columns, channels, *taps.shape[2:],
            K=k, ROWS=config.rows, CHANNELS=config.channels, BLOCK=config.block, PARTS=config.parts,
            ACC=accumulator(data.dtype), num_warps=config.threads // 32,
        )  # fmt: skip
