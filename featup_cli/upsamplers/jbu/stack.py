"""A stack of stages as what it is for a given picture: a linear map of the low-resolution features.

The weights of all stages depend on the picture only, and all channels share them. So channels can pass in chunks, and
when there are many more channels than low-resolution pixels it is cheaper to pass the identity basis of those pixels
and to finish by a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from featup_kernels.resampled_conv.op import resampled_conv_runs_fused
from torch import Tensor

from featup_cli.ops.taps import Size
from featup_cli.upsamplers.jbu.stage import filter_stage

# Without gradients, channels pass in this many chunks where the source of a filter is resized first, so that what a
# chunk needs stays small beside the result. Too few channels at a time waste the reading of the weights.
_CHUNKS, _LEAST_CHANNELS = 8, 16
# What resizing costs a pixel, and what a multiply-add in a matrix product costs, in multiply-adds of a filter (measured
# on a CPU).
_RESIZE_COST = 20
_PRODUCT_COST = 0.5
# The basis path is taken from this many channels per low-resolution pixel on: the basis is stored at full size.
_LEAST_RANK_RATIO = 3


def grid_sizes(lr_size: Size, output_size: Size, stages: int | None = None) -> list[Size]:
    """Output grids of the stages, in equal ratios; the last is `output_size`.

    Args:
        lr_size: (height, width) of the features.
        output_size: of the result.
        stages: None for the fewest whose ratios are at most two, and at least one.
    """
    ratios = [out / lr for out, lr in zip(output_size, lr_size, strict=True)]
    # The tolerance keeps 8 at three doublings whatever the logarithm's last digit.
    count = stages or max(1, math.ceil(math.log2(max(ratios)) - 1e-6))
    sizes = [
        (round(lr_size[0] * ratios[0] ** (i / count)), round(lr_size[1] * ratios[1] ** (i / count)))
        for i in range(1, count)
    ]
    return [*sizes, output_size]


def apply_stack(taps: Sequence[Tensor], feats: Tensor, resize: str) -> Tensor:
    """Pass features through all stages.

    Args:
        taps: weights [B, k * k, H, W] of each stage, first to last.
        feats: [B, C, h, w].
        resize: `bicubic`, `bilinear` or `nearest`, before each filter.
    Returns:
        [B, C, H, W] on the grid of the last stage. Without gradients the memory besides the result stays near half
        of it when there are a few hundred channels.
    """
    batch, channels, height, width = feats.shape
    sizes = [(t.shape[2], t.shape[3]) for t in taps]
    if not basis_is_cheaper(channels, height * width, taps[0].shape[1], sizes):
        return _apply_in_chunks(taps, feats, resize)
    basis = torch.eye(height * width, dtype=feats.dtype, device=feats.device).view(1, -1, height, width)
    responses = _apply_in_chunks(taps, basis.expand(batch, -1, -1, -1), resize)
    return torch.bmm(feats.flatten(2), responses.flatten(2)).unflatten(2, responses.shape[2:])


def basis_is_cheaper(channels: int, lr_pixels: int, window: int, sizes: Sequence[Size]) -> bool:
    """Whether passing the identity basis of the low-resolution pixels beats passing the channels.

    `window` is the number of weights of an output pixel, and `sizes` are the output grids of the stages.
    """
    if channels < _LEAST_RANK_RATIO * lr_pixels:
        return False
    filter_cost = (window + _RESIZE_COST) * sum(math.prod(size) for size in sizes)
    product_cost = _PRODUCT_COST * channels * lr_pixels * math.prod(sizes[-1])
    return lr_pixels * filter_cost + product_cost < channels * filter_cost


def _apply_in_chunks(taps: Sequence[Tensor], feats: Tensor, resize: str) -> Tensor:
    channels = feats.shape[1]
    chunk = channel_chunk(feats, taps[-1])
    if torch.is_grad_enabled() or channels <= chunk:
        return _apply(taps, feats, resize)
    first, *others = feats.split(chunk, dim=1)
    result = _apply(taps, first, resize)
    out = result.new_empty(result.shape[0], channels, *result.shape[2:])
    target, *targets = out.split(first.shape[1], dim=1)
    target.copy_(result)
    del result
    for target, part in zip(targets, others, strict=True):
        target.copy_(_apply(taps, part, resize))
    return out


def channel_chunk(source: Tensor, taps: Tensor) -> int:
    """How many channels pass at a time without gradients: all, where nothing is as large as the result but itself."""
    channels = source.shape[1]
    return channels if resampled_conv_runs_fused(source, taps) else unfused_chunk(channels)


def unfused_chunk(channels: int) -> int:
    """How many where the source of a filter is resized first."""
    return min(channels, max(_LEAST_CHANNELS, math.ceil(channels / _CHUNKS)))


def _apply(taps: Sequence[Tensor], feats: Tensor, resize: str) -> Tensor:
    for stage_taps in taps:
        feats = filter_stage(feats, stage_taps, resize)
    return feats
