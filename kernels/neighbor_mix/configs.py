"""Launch configurations of the Triton kernels of `neighbor_mix`.

The rows of a thread lie in one cell of the low-resolution grid or in two neighbouring ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from featup_kernels.launch import Launch, TapsConfig, ceil_div, power_of_two, unrolled_tap_rows


@dataclass(frozen=True, kw_only=True)
class ForwardConfig(Launch):
    """Constants of the forward kernel.

    Attributes:
        tap_rows: rows of taps whose weights a thread keeps, all or one.
        channels: that it takes at a time.
        chunk: channels of a program.
    """

    tap_rows: int
    channels: int
    chunk: int

    def programs(self, batch: int, channels: int, height: int, width: int) -> int:
        """How many cover an output of this shape."""
        return self.blocks(batch, height, width) * ceil_div(channels, self.chunk)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Constants of the d_source kernel.

    Attributes:
        tap_rows: rows of taps that are unrolled, all or one.
        lr_rows, lr_columns: low-resolution pixels of a program.
        channels: of a program.
        block: output columns that it reads at a time.
        threads: of a program.
    """

    tap_rows: int
    lr_rows: int
    lr_columns: int
    channels: int
    block: int
    threads: int = 128

    def programs(self, batch: int, channels: int, lr_height: int, lr_width: int) -> int:
        """How many cover a source of this shape."""
        pixels = ceil_div(lr_height, self.lr_rows) * ceil_div(lr_width, self.lr_columns)
        return batch * pixels * ceil_div(channels, self.channels)


def rows_in_two_cells(height: int, lr_height: int, at_most: int) -> int:
    """Output rows of a thread: so few that they lie in one cell or in two neighbouring ones."""
    rows = at_most
    while rows > 1 and height < rows * lr_height:
        rows //= 2
    return rows


def forward_config(channels: int, height: int, lr_height: int, k: int) -> ForwardConfig:
    """Weights stay in registers for 16 channels if k is 3; else they are made again for every 8."""
    tap_rows = unrolled_tap_rows(k, widest=3)
    if tap_rows == k:
        return ForwardConfig(tap_rows=tap_rows, rows=rows_in_two_cells(height, lr_height, 4), channels=1, chunk=16)
    return ForwardConfig(tap_rows=tap_rows, channels=min(8, channels), chunk=16)


def source_config(channels: int, lr_width: int, width: int, k: int) -> SourceConfig:
    """2 x 16 low-resolution pixels in 8 channels, if their sums fit in registers."""
    tap_rows = unrolled_tap_rows(k, widest=3)
    lr_columns = min(16, power_of_two(lr_width))
    reached = min(width, (lr_columns + k + 1) * ceil_div(width, lr_width))
    return SourceConfig(
        tap_rows=tap_rows,
        lr_rows=2 if tap_rows == k else 1,
        lr_columns=lr_columns,
        channels=min(8 if k <= 7 else 1, power_of_two(channels)),
        block=min(128, max(16, power_of_two(reached))),
    )


def taps_config(channels: int, height: int, lr_height: int, k: int) -> TapsConfig:
    """Sums of all corners of a pixel in registers, if they fit; many channels go to several threads."""
    rows = rows_in_two_cells(height, lr_height, {1: 4, 3: 2}.get(k, 1))
    block, parts = (32, 8) if channels >= 64 else (128, 1)
    return TapsConfig(tap_rows=unrolled_tap_rows(k), rows=rows, block=block, parts=parts)
