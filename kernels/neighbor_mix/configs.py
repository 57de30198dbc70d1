"""Launch configurations of the Triton kernels of `neighbor_mix`."""

from __future__ import annotations

from typing import NamedTuple

from featup_kernels.launch import ceil_div, count_columns, power_of_two, unrolled_tap_rows, variants


class ForwardConfig(NamedTuple):
    """Constants of the forward kernel.

    Attributes:
        tap_rows: rows of taps whose weights a thread keeps, all or one.
        rows: output pixels below each other that it computes; they lie in one cell or in two neighbouring ones.
        channels: that it takes at a time.
        chunk: channels of a program.
        block: columns of pixels of a program, one a thread.
    """

    tap_rows: int
    rows: int
    channels: int
    chunk: int
    block: int

    @property
    def threads(self) -> int:
        """Of a program."""
        return self.block

    def programs(self, batch: int, channels: int, height: int, width: int) -> int:
        """How many cover an output of this shape."""
        columns = count_columns(batch, height, width, self.rows)
        return ceil_div(columns, self.block) * ceil_div(channels, self.chunk)


class SourceConfig(NamedTuple):
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
    threads: int

    def programs(self, batch: int, channels: int, lr_height: int, lr_width: int) -> int:
        """How many cover a source of this shape."""
        pixels = ceil_div(lr_height, self.lr_rows) * ceil_div(lr_width, self.lr_columns)
        return batch * pixels * ceil_div(channels, self.channels)


class TapsConfig(NamedTuple):
    """Constants of the d_taps kernel.

    Attributes:
        tap_rows: rows of taps of a program, all or one.
        rows: output pixels below each other that a thread computes, as in `ForwardConfig`.
        block: columns of pixels of a program.
        parts: of `block` threads each; they sum different channels.
    """

    tap_rows: int
    rows: int
    block: int
    parts: int

    @property
    def threads(self) -> int:
        """Of a program."""
        return self.block * self.parts

    def programs(self, batch: int, k: int, height: int, width: int) -> int:
        """How many cover taps of this shape."""
        return ceil_div(count_columns(batch, height, width, self.rows), self.block) * (k // self.tap_rows)


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
        return ForwardConfig(tap_rows, rows_in_two_cells(height, lr_height, 4), 1, 16, 128)
    return ForwardConfig(tap_rows, 1, min(8, channels), 16, 128)


def forward_candidates(config: ForwardConfig, height: int, lr_height: int) -> list[ForwardConfig]:
    """Records around the default."""
    return variants(
        config,
        {"rows": max(1, config.rows // 2)},
        {"rows": rows_in_two_cells(height, lr_height, config.rows * 2)},
        {"channels": config.channels * 2},
        {"chunk": config.chunk * 2},
        {"chunk": config.chunk * 4},
        {"chunk": max(config.channels, config.chunk // 2)},
        {"block": config.block // 2},
        {"block": config.block * 2},
    )


def source_config(channels: int, lr_width: int, width: int, k: int) -> SourceConfig:
    """2 x 16 low-resolution pixels in 8 channels, if their sums fit in registers."""
    tap_rows = unrolled_tap_rows(k, widest=3)
    lr_columns = min(16, power_of_two(lr_width))
    at_once = min(8 if k <= 7 else 1, power_of_two(channels))
    reached = min(width, (lr_columns + k + 1) * ceil_div(width, lr_width))
    block = min(128, max(16, power_of_two(reached)))
    return SourceConfig(tap_rows, 2 if tap_rows == k else 1, lr_columns, at_once, block, 128)


def source_candidates(config: SourceConfig) -> list[SourceConfig]:
    """Records around the default."""
    return variants(
        config,
        {"lr_rows": 1},
        {"lr_columns": max(1, config.lr_columns // 2)},
        {"lr_columns": config.lr_columns * 2},
        {"channels": max(1, config.channels // 2)},
        {"channels": config.channels * 2},
        {"block": max(16, config.block // 2)},
        {"threads": 64},
        {"threads": 256},
    )


def taps_config(channels: int, height: int, lr_height: int, k: int) -> TapsConfig:
    """Sums of all corners of a pixel in registers, if they fit; many channels go to several threads."""
    rows = rows_in_two_cells(height, lr_height, {1: 4, 3: 2}.get(k, 1))
    block, parts = (32, 8) if channels >= 64 else (128, 1)
    return TapsConfig(unrolled_tap_rows(k), rows, block, parts)


def taps_candidates(config: TapsConfig, height: int, lr_height: int) -> list[TapsConfig]:
    """Records around the default."""
    _, rows, block, parts = config
    return variants(
        config,
        {"tap_rows": 1},
        {"rows": max(1, rows // 2)},
        {"rows": rows_in_two_cells(height, lr_height, rows * 2)},
        {"block": block * 2},
        {"parts": parts * 2},
        {"parts": parts * 4},
        {"parts": max(1, parts // 2), "block": block * 2},
    )
