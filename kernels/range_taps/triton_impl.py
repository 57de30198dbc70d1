"""GPU kernels of `range_taps`, in Triton: nothing is unfolded, and no sum depends on the order of threads.

With p the taps and d their gradient, the gradient of the scores is p * (d - <p, d>), the inner product being that over
the taps of a pixel. A key gets it twice: as the centre of its own window, and as a neighbour in the windows around it.
Tensors are contiguous and not empty; their shapes are those of `range_taps`. A `config` is the kernels' constants; None
takes those of `configs.py`.
"""

# Triton's dialect: constants in capitals, other arguments without annotations, tuples that grow by "+".
# ruff: noqa: N803, RUF005
# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from featup_kernels.launch import ceil_div, count_columns
from featup_kernels.range_taps.configs import BackwardConfig, ForwardConfig, backward_config, forward_config
from featup_kernels.triton_common import accumulator, columns_of_program, on_device, zeros
from torch import Tensor

SIZES = ["columns", "channels", "height", "width"]


@triton.jit
def _scores(
    keys_ptr, logits_ptr, temperature, exists, y, tap_row, channels, height, width,
    K: tl.constexpr, TAP_ROWS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Scores of TAP_ROWS rows of taps for each of ROWS pixels: indexed (tap, row), each [BLOCK]."""
    keys_width = width + K - 1
    keys_plane = (tl.cast(height, tl.int64) + K - 1) * keys_width
    scores = zeros(TAP_ROWS * K * ROWS, BLOCK, ACC)
    for channel in range(0, channels):
        ptrs = keys_ptr + tl.cast(channel, tl.int64) * keys_plane
        centres = ()
        for r in tl.static_range(ROWS):
            centre_ptrs = ptrs + (K // 2 + r) * keys_width + K // 2
            centres = centres + (tl.load(centre_ptrs, mask=exists & (y + r < height), other=0).to(ACC),)
        values = ()
        for row in tl.static_range(TAP_ROWS + ROWS - 1):
            inside = exists & (y + tap_row + row < height + K - 1)
            row_ptrs = ptrs + tl.cast(tap_row + row, tl.int64) * keys_width
            for dx in tl.static_range(K):
                values = values + (tl.load(row_ptrs + dx, mask=inside, other=0).to(ACC),)
        added = ()
        for t in tl.static_range(TAP_ROWS * K):
            for r in tl.static_range(ROWS):
                added = added + (scores[t * ROWS + r] + centres[r] * values[r * K + t],)
        scores = added
    finished = ()
    for t in tl.static_range(TAP_ROWS * K):
        logit = tl.load(logits_ptr + tap_row * K + t).to(ACC)
        for r in tl.static_range(ROWS):
            finished = finished + (scores[t * ROWS + r] * temperature + logit,)
    return finished


@triton.jit(do_not_specialize=SIZES)
def _range_taps_forward_kernel(
    keys_ptr, temperature_ptr, logits_ptr, taps_ptr, columns, channels, height, width,
    K: tl.constexpr, TAP_ROWS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    image, y, x, exists, _ = columns_of_program(tl.program_id(0), columns, height, width, ROWS, BLOCK)
    plane = tl.cast(height, tl.int64) * width
    keys_width = width + K - 1
    keys_ptr += (image * channels * (height + K - 1) + y) * keys_width + x
    taps_ptr += image * K * K * plane + y.to(tl.int64) * width + x
    temperature = tl.load(temperature_ptr).to(ACC)
    # The softmax over all taps so far: its greatest score and the sum relative to that, for each row.
    greatest = ()
    for _ in tl.static_range(ROWS):
        greatest = greatest + (tl.full((BLOCK,), float("-inf"), ACC),)
    sums = zeros(ROWS, BLOCK, ACC)
    for tap_row in range(0, K, TAP_ROWS):
        scores = _scores(
            keys_ptr, logits_ptr, temperature, exists, y, tap_row, channels, height, width,
            K, TAP_ROWS, ROWS, BLOCK, ACC,
        )  # fmt: skip
        new_greatest = ()
        new_sums = ()
        for r in tl.static_range(ROWS):
            top = greatest[r]
            for t in tl.static_range(TAP_ROWS * K):
                top = tl.maximum(top, scores[t * ROWS + r])
            total = sums[r] * tl.exp(greatest[r] - top)
            for t in tl.static_range(TAP_ROWS * K):
                total += tl.exp(scores[t * ROWS + r] - top)
            new_greatest = new_greatest + (top,)
            new_sums = new_sums + (total,)
        greatest = new_greatest
        sums = new_sums
        if TAP_ROWS == K:
            _store_softmax(scores, greatest, sums, taps_ptr, exists, y, height, width, K, TAP_ROWS, ROWS)
    if TAP_ROWS < K:
        # The scores of all taps do not fit in registers: they are computed again.
        for tap_row in range(0, K, TAP_ROWS):
            scores = _scores(
                keys_ptr, logits_ptr, temperature, exists, y, tap_row, channels, height, width,
                K, TAP_ROWS, ROWS, BLOCK, ACC,
            )  # fmt: skip
            row_ptr = taps_ptr + tap_row * K * plane
            _store_softmax(scores, greatest, sums, row_ptr, exists, y, height, width, K, TAP_ROWS, ROWS)


@triton.jit
def _store_softmax(
    scores, greatest, sums, taps_ptr, exists, y, height, width,
    K: tl.constexpr, TAP_ROWS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    plane = tl.cast(height, tl.int64) * width
    for t in tl.static_range(TAP_ROWS * K):
        for r in tl.static_range(ROWS):
            tap = tl.exp(scores[t * ROWS + r] - greatest[r]) / sums[r]
            tl.store(taps_ptr + t * plane + r * width, tap, mask=exists & (y + r < height))


@triton.jit(do_not_specialize=["pixels", "plane", "blocks"])
def _range_taps_inner_kernel(
    d_taps_ptr, taps_ptr, inner_ptr, partial_ptr, pixels, plane, blocks,
    K: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """<p, d> of every pixel, [pixels], and each tap's gradient of the scores summed over a block, [K * K, blocks]."""
    block = tl.program_id(0).to(tl.int64)
    pixel = block * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < pixels
    offset = (pixel // plane) * plane * (K * K) + pixel % plane
    d_taps_ptr += offset
    taps_ptr += offset
    inner = tl.zeros((BLOCK,), ACC)
    for row in range(0, K):
        for column in tl.static_range(K):
            step = (tl.cast(row, tl.int64) * K + column) * plane
            tap = tl.load(taps_ptr + step, mask=exists, other=0).to(ACC)
            inner += tap * tl.load(d_taps_ptr + step, mask=exists, other=0).to(ACC)
    tl.store(inner_ptr + pixel, inner, mask=exists)
    for row in range(0, K):
        for column in tl.static_range(K):
            t = tl.cast(row, tl.int64) * K + column
            tap = tl.load(taps_ptr + t * plane, mask=exists, other=0).to(ACC)
            d_tap = tl.load(d_taps_ptr + t * plane, mask=exists, other=0).to(ACC)
            tl.store(partial_ptr + t * blocks + block, tl.sum(tap * (d_tap - inner), 0))


@triton.jit(do_not_specialize=SIZES)
def _range_taps_d_keys_kernel(
    d_taps_ptr, taps_ptr, inner_ptr, keys_ptr, temperature_ptr, d_keys_ptr, columns, channels, height, width,
    K: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    keys_height = height + K - 1
    keys_width = width + K - 1
    groups = (channels + CHANNELS - 1) // CHANNELS
    index = tl.program_id(0) // groups
    channel = (tl.program_id(0) % groups) * CHANNELS
    image, y, x, exists, _ = columns_of_program(index, columns, keys_height, keys_width, 1, BLOCK)
    plane = tl.cast(height, tl.int64) * width
    keys_plane = tl.cast(keys_height, tl.int64) * keys_width
    key = (image * channels + channel) * keys_plane + y.to(tl.int64) * keys_width + x
    # This key as a centre, and from it to the neighbours that are centres.
    centre_y = y - K // 2
    centre_x = x - K // 2
    centre = centre_y.to(tl.int64) * width + centre_x
    is_centre = exists & (centre_y >= 0) & (centre_y < height) & (centre_x >= 0) & (centre_x < width)
    inner_ptr += image * plane + centre
    taps_ptr += image * K * K * plane + centre
    d_taps_ptr += image * K * K * plane + centre
    own_inner = tl.load(inner_ptr, mask=is_centre, other=0)
    temperature = tl.load(temperature_ptr).to(ACC)

    sums = zeros(CHANNELS, BLOCK, ACC)
    for row in range(0, K):
        dy = tl.cast(row, tl.int64) - K // 2
        row_reached = exists & (centre_y + dy >= 0) & (centre_y + dy < height)
        for column in tl.static_range(K):
            dx = column - K // 2
            reached = row_reached & (centre_x + dx >= 0) & (centre_x + dx < width)
            # The neighbour at (dy, dx) sees this key through the mirrored tap.
            own = ((dy + K // 2) * K + column) * plane
            seen = ((K // 2 - dy) * K + (K - 1 - column)) * plane + dy * width + dx
            weight = tl.load(taps_ptr + own, mask=is_centre, other=0).to(ACC)
            weight *= tl.load(d_taps_ptr + own, mask=is_centre, other=0).to(ACC) - own_inner
            tap = tl.load(taps_ptr + seen, mask=reached, other=0).to(ACC)
            d_tap = tl.load(d_taps_ptr + seen, mask=reached, other=0).to(ACC)
            weight += tap * (d_tap - tl.load(inner_ptr + dy * width + dx, mask=reached, other=0))
            added = ()
            for c in tl.static_range(CHANNELS):
                ptrs = keys_ptr + key + c * keys_plane + dy * keys_width + dx
                mask = (is_centre | reached) & (x < tl.where(channel + c < channels, keys_width, 0))
                value = tl.load(ptrs, mask=mask, other=0).to(ACC)
                added = added + (sums[c] + weight * value,)
            sums = added
    for c in tl.static_range(CHANNELS):
        mask = exists & (x < tl.where(channel + c < channels, keys_width, 0))
        tl.store(d_keys_ptr + key + c * keys_plane, sums[c] * temperature, mask=mask)


def forward(keys: Tensor, temperature: Tensor, logits: Tensor, config: ForwardConfig | None = None) -> Tensor:
    """taps of `range_taps`, [B, k * k, H, W], with the logits of `spatial_logits`, [k * k]."""
    k = math.isqrt(len(logits))
    batch, channels = keys.shape[:2]
    height, width = keys.shape[2] - k + 1, keys.shape[3] - k + 1
    taps = torch.empty((batch, k * k, height, width), dtype=keys.dtype, device=keys.device)
    config = config or forward_config(k)
    columns = count_columns(batch, height, width, config.rows)
    with on_device(keys):
        _range_taps_forward_kernel[(config.blocks(batch, height, width),)](
            keys, temperature, logits, taps, columns, channels, height, width,
            K=k, TAP_ROWS=config.tap_rows, ROWS=config.rows, BLOCK=config.block, ACC=accumulator(keys.dtype),
            num_warps=config.threads // 32,
        )  # fmt: skip
    return taps


def backward(
    d_taps: Tensor, taps: Tensor, keys: Tensor, temperature: Tensor, config: BackwardConfig | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of the keys, as they are, and of the logits, [k * k] in the dtype of `temperature`.

    The second is summed within blocks of pixels first, and then over these: the same way every time.
    """
    batch, channels = keys.shape[:2]
    tap_count, height, width = taps.shape[1:]
    k = math.isqrt(tap_count)
    config = config or backward_config(channels)
    pixels = batch * height * width
    blocks = ceil_div(pixels, config.inner_block)
    inner = torch.empty((pixels,), dtype=temperature.dtype, device=keys.device)
    partial = torch.empty((tap_count, blocks), dtype=temperature.dtype, device=keys.device)
    d_keys = torch.empty_like(keys)
    columns = count_columns(batch, keys.shape[2], keys.shape[3], rows=1)
    acc = accumulator(keys.dtype)
    with on_device(keys):
        _range_taps_inner_kernel[(blocks,)](
            d_taps, taps, inner, partial, pixels, height * width, blocks,
            K=k, BLOCK=config.inner_block, ACC=acc, num_warps=config.inner_threads // 32,
        )  # fmt: skip
        _range_taps_d_keys_kernel[(config.programs(*keys.shape),)](
            d_taps, taps, inner, keys, temperature, d_keys, columns, channels, height, width,
            K=k, CHANNELS=config.channels, BLOCK=config.block, ACC=acc, num_warps=config.threads // 32,
        )  # fmt: skip
    return d_keys, partial.sum(1)
