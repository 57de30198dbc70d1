"""Launch configurations of the Triton kernel of `resampled_conv`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from featup_kernels.launch import Launch, ceil_div

WEIGHTS = 128  # 32-bit registers of a thread that weights may take, of 255
BUSY = 512  # programs that keep a GPU of some 130 multiprocessors busy


@dataclass(frozen=True, kw_only=True)
class ForwardConfig(Launch):
    """Constants of the forward kernel.

    Attributes:
        down, across: cells of the source that a thread takes at a time; no more than the source has.
        channels: that it takes at a time.
        chunk: channels of a program.
    """

    down: int
    across: int
    channels: int
    chunk: int

    def programs(self, batch: int, channels: int, height: int, width: int) -> int:
        """How many cover an output of this shape."""
        return self.blocks(batch, height, width) * ceil_div(channels, self.chunk)


def forward_config(
    batch: int, channels: int, lr_size: tuple[int, int], size: tuple[int, int], k: int, terms: tuple[int, int],
    itemsize: int = 4,
) -> ForwardConfig:  # fmt: skip
    """The default record.

    Args:
        batch, channels: of the output.
        lr_size, size: (height, width) of the source and of the output.
        k: side of the window.
        terms: cells that a row and a column read.
        itemsize: bytes of a sum: 4, or 8 for float64.
    """
    budget = WEIGHTS * 4 // itemsize
    for rows in (4, 2, 1):
        # Resized evenly, `steps` places further on lie so many cells further on; windows begin anywhere between cells.
        steps = (k + rows - 2, k - 1)
        spans = [
            min(cells, ceil_div(step * cells, places) + count)
            for step, cells, places, count in zip(steps, lr_size, size, terms, strict=True)
        ]
        if rows <= size[0] and rows * spans[0] * spans[1] <= budget:
            at_once, chunk = 1, 128
            break
    else:  # the weights don't fit, and are made again for each group of channels
        at_once, chunk = min(8, channels), 16
        spans = [min(cells, count) for cells, count in zip(lr_size, (8, 8 * 4 // itemsize), strict=True)]
    config = ForwardConfig(rows=rows, down=spans[0], across=spans[1], channels=at_once, chunk=chunk)
    while config.chunk > 16 and config.programs(batch, channels, *size) < BUSY:
        config = replace(config, chunk=config.chunk // 2)
    return config
