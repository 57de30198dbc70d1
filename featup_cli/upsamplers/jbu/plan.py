"""Grids of a stack of stages, the cheaper of its two ways, and the memory that it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.api import FLOAT

# Without gradients, channels pass in this many chunks where the source of a filter is resized first, so that what a
# chunk needs stays small beside the result. Too few channels at a time waste the reading of the weights.
_CHUNKS, _LEAST_CHANNELS = 8, 16
# What resizing costs a pixel, and what a multiply-add in a matrix product costs, in multiply-adds of a filter (measured
# on a CPU).
_RESIZE_COST = 20
_PRODUCT_COST = 0.5
# The basis path is taken from this many channels per low-resolution pixel on: the basis is stored at full size.
_LEAST_RANK_RATIO = 3
_PART_PIXELS, _PART_ROWS = 2**14, 16  # of which weights are made at a time; windows read rows around a part
SCRATCH_BYTES = 25_000_000  # that libraries and threads take for themselves
WHOLE_BYTES = 32e6  # early stages whose results are smaller than this are made once, whole


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


def basis_is_cheaper(channels: int, lr_pixels: int, window: int, sizes: Sequence[Size]) -> bool:
    """Whether passing the identity basis of the low-resolution pixels beats passing the channels.

    `window` is the number of weights of an output pixel, and `sizes` are the output grids of the stages.
    """
    if channels < _LEAST_RANK_RATIO * lr_pixels:
        return False
    filter_cost = (window + _RESIZE_COST) * sum(math.prod(size) for size in sizes)
    product_cost = _PRODUCT_COST * channels * lr_pixels * math.prod(sizes[-1])
    return lr_pixels * filter_cost + product_cost < channels * filter_cost


def unfused_chunk(channels: int) -> int:
    """How many channels pass at a time without gradients where the source of a filter is resized first."""
    return min(channels, max(_LEAST_CHANNELS, math.ceil(channels / _CHUNKS)))


def part_rows(width: int) -> int:
    """Rows of which weights are made at a time without gradients: their keys fit into the caches."""
    return max(_PART_ROWS, _PART_PIXELS // width)


def whole_stages(channels: int, sizes: Sequence[Size]) -> int:
    """How many early stages are made whole; never the last."""
    early = 0
    while early < len(sizes) - 1 and FLOAT * channels * math.prod(sizes[early]) <= WHOLE_BYTES:
        early += 1
    return early


def stack_bytes(lr_shape: Sequence[int], sizes: Sequence[Size], radius: int, maps: int, rows: int) -> int:
    """Estimated peak of a `Stack` with its features, while it makes bands of `rows`.

    Args:
        lr_shape: [B, C, h, w].
        sizes, radius: as the stack.
        maps: maps that are held at once while weights are made, of the rows that are made at a time.
        rows: of a band.
    """
    batch, channels, height, _ = lr_shape
    side, taps_per_pixel = 2 * radius + 1, (2 * radius + 1) ** 2
    early = whole_stages(batch * channels, sizes)
    # Early stages: two results at most, and the weights of all of them, which are gone when the bands begin.
    source = channels * math.prod(sizes[early - 1]) if early else 0
    preparing = 2 * source + sum(math.prod(size) for size in sizes[:early]) * taps_per_pixel
    preparing += max((_weighed(size, size[0], side) for size in sizes[:early]), default=0) * maps
    weights = weighing = slabs = passing = 0
    part = rows
    for i in reversed(range(early, len(sizes))):
        tall, width = min(part + side - 1, sizes[i][0]), sizes[i][1]
        weights += taps_per_pixel * part * width
        weighing = max(weighing, _weighed(sizes[i], tall, side) * maps + taps_per_pixel * part * width)
        slabs = max(slabs, 4 * (tall + side) * (width + side))
        before = sizes[i - 1][0] if i else height
        made, part = part * width, min(math.ceil(tall * before / sizes[i][0]) + 4, before)
        passing = max(passing, made + (part * sizes[i - 1][1] if i > early else 0))
    # A step's rows and the ones that they are made of; or, where sources are resized first, chunks of them.
    filtering = max(channels * passing, channels * rows * sizes[-1][1] + unfused_chunk(channels) * slabs)
    return SCRATCH_BYTES + FLOAT * batch * max(preparing, source + weights + max(weighing, filtering))


def _weighed(size: Size, rows: int, side: int) -> int:
    """Pixels, at most, of which the keys are there at once while the weights of some rows are made."""
    return min(rows, part_rows(size[1]) + side) * (size[1] + side)
