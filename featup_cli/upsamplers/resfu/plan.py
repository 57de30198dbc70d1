"""How many rows of which map are made and kept at a time, and what that takes."""

from __future__ import annotations

import math
from enum import IntEnum

import torch

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.rows import Rows, Window, window_rows

# Pixels of a band: what its widest maps need fits into the caches, or on other devices is small beside a result.
_CPU_PIXELS, _PIXELS = 2**11, 2**17
_TALL = 16  # rows at least of a band of the stem, whose convolutions need rows around it
_ALIGNED, _ALIGNED_PIXELS = 32, 2**16  # and of the guided filter, which needs more of them, and far more around
_STEM = 64  # channels of its hidden maps
_SCRATCH = 5_000_000  # numbers that libraries take for themselves


class Keep(IntEnum):
    """Which maps are kept whole, instead of being made again in every pass over the rows."""

    NONE = 0  # the result may be far larger than the memory
    NARROW = 1  # those of D channels, which are few beside the result
    ALL = 2  # also the wide ones: gradients need them anyway. All rows are one band


class Plan:
    """Rows of the bands and windows in which maps are made.

    Args:
        config: of the model.
        lr_size, size: (height, width) of features and output.
        device: of both.
        keep: which maps are kept whole.

    Attributes:
        rows: of a band of the widest maps, and of the weights.
        tall: of a band of the guidance.
        aligned: of a band of the guided filter.
        step: (rows, columns) from a neighbour to the next, in output pixels.
        aligned_span: rows of the aligned query, of which only `similarity=concat` reads neighbours.
        query_span: of the query: from the neighbours above the current rows to the last that the guided filter or the
            neighbours below need.
    """

    def __init__(
        self, config: ReSFUConfig, lr_size: Size, size: Size, device: torch.device, keep: Keep = Keep.NONE
    ) -> None:
        self.config, self.lr_size, self.size, self.keep = config, lr_size, size, keep
        self.rows = min(size[0], max(1, (_CPU_PIXELS if device.type == "cpu" else _PIXELS) // size[1]))
        self.tall = max(self.rows, _TALL)
        scale = config.filter_scale
        self.aligned = max(self.rows, min(_ALIGNED, scale * max(2, _ALIGNED_PIXELS // (scale * size[1]))))
        if keep == Keep.ALL:
            self.rows, self.tall, self.aligned = size[0], size[0] + 2, size[0]
        self.step = size[0] / lr_size[0], size[1] / lr_size[1]
        steps = config.kernel_size // 2 if config.neighbors == "fine" else 1
        reach = math.ceil(steps * self.step[0])
        filtered = 3 * self.aligned + scale * (2 * config.filter_radius + 4) if config.guided_query else 0
        around = (
            reach + 2 if config.similarity == "concat" else 0
        )  # of the query, which else is read at its pixel alone
        above = reach + 2 if config.scores != "semantic" else around
        self.aligned_span = self.rows + 2 * around
        self.query_span = above + self.rows + around + max(filtered, reach + self.tall + 2)

    def kept(self, rows: Rows, chunk: int, span: int = 0, *, wide: bool = False, height: int | None = None) -> Rows:
        """Rows that are made `chunk` at a time and kept: all, or the last `span`; for a span of 0 maybe none.

        `wide` maps have more than D channels, or are needed for a short while only. `height` is the output's, if None.
        """
        height = height or self.size[0]
        if self.keep == Keep.ALL:
            return Window(rows, height, height, height)
        if self.keep == Keep.NARROW and not wide:
            return Window(rows, height, height, chunk)
        return Window(rows, height, span, chunk) if span else rows

    def floats(self, channels: int, rows: int) -> int:
        """Numbers held at once per image at the worst.

        Args:
            channels: of what is mixed.
            rows: of a band; the one before counts too, as the caller has not let go of it.
        """
        c, (height, width), lr_pixels = self.config, self.size, math.prod(self.lr_size)
        blocks = 2 if c.scores == "both" else 1
        sparse = max(1, self.aligned // c.filter_scale)
        reach = sparse + 2 * c.filter_radius + 2
        held = window_rows(height, self.query_span, self.tall) * c.projection
        if rows >= height:  # then narrow maps are kept instead of made again
            held += height * (c.guidance_channels + 3 * c.projection)
        if c.guided_query:
            # Of two windows with two maps, as many times narrower.
            held += 4 * window_rows(height // c.filter_scale, reach, sparse) * c.projection // c.filter_scale
            held += window_rows(height, self.aligned_span, self.aligned) * c.projection
        widened = blocks * (self.rows * self.lr_size[0] // height + 4) * c.hidden
        stem = (self.tall + 2) * 2 * _STEM + self.tall * (2 * c.guidance_channels + c.projection)
        filtering = reach * 24 * c.projection // c.filter_scale if c.guided_query else 0
        copies = 4 * c.kernel_size**2 if c.similarity == "concat" else c.kernel_size**2 + 4
        compared = self.rows * (copies * c.projection + 3 * max(c.hidden, c.compressor_width))
        # Every row of the band reads the rows of its neighbours, which pass through copies while they are interpolated.
        mixed = rows * (channels + c.kernel_size**2) + 3 * c.kernel_size * rows * channels * self.lr_size[1] // width
        sharpened = 5 * channels * lr_pixels if c.sharpen_lr or c.sharpen_lr_wide else 0
        maps = lr_pixels * (2 * c.projection + blocks * c.hidden) + sharpened
        working = rows * channels + max(stem, filtering, compared, mixed)
        return _SCRATCH + maps + width * (held + widened + working)
