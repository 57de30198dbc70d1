"""Launch configurations of the Triton kernels of `adaptive_conv`."""

from __future__ import annotations

from typing import NamedTuple

from featup_kernels.launch import ceil_div, count_columns, power_of_two, unrolled_tap_rows, variants


class FilterConfig(NamedTuple):
    """Constants of the forward and the d_source kernel.

    Attributes:
        rows: pixels of the result below each other that a thread computes.
        channels: in which it computes them.
        block: columns of pixels of a program.
        parts: of `block` threads each; they take the same columns and different channels.
    """

    rows: int
    channels: int
    block: int
    parts: int

    @property
    def threads(self) -> int:
        """Of a program."""
        return self.block * self.parts

    def programs(self, batch: int, channels: int, height: int, width: int) -> int:
        """How many cover a result of this shape."""
        columns = count_columns(batch, height, width, self.rows)
        return ceil_div(columns, self.block) * ceil_div(channels, self.channels * self.parts)


class TapsConfig(NamedTuple):
    """Constants of the d_taps kernel.

    Attributes:
        tap_rows: rows of taps of a program, all or one.
        rows: pixels below each other that a thread computes.
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


def filter_config(channels: int, height: int, k: int) -> FilterConfig:
    """128 threads, up to 4 channels and 4 rows a thread; `channels` and `height` are those of the result."""
    at_once = min(4, channels)
    parts = min(4, power_of_two(ceil_div(channels, at_once)))
    return FilterConfig(4 if k <= 7 and height > 2 else 1, at_once, 128 // parts, parts)


def filter_candidates(config: FilterConfig) -> list[FilterConfig]:
    """Records around the default: rows, channels, threads, and how these are shared between pixels and channels."""
    rows, at_once, block, parts = config
    return variants(
        config,
        {"rows": max(1, rows // 2)},
        {"rows": rows * 2},
        {"channels": max(1, at_once // 2)},
        {"channels": at_once * 2},
        {"block": block * 2},
        {"block": max(32, block // 2)},
        {"parts": parts * 2},
        {"block": block * 2, "parts": max(1, parts // 2)},
    )


def taps_config(batch: int, channels: int, height: int, width: int, k: int) -> TapsConfig:
    """All taps of a pixel in the registers of a thread, if they fit; many channels go to several threads."""
    rows = {1: 4, 3: 4, 5: 2}.get(k, 1)
    tap_rows = unrolled_tap_rows(k)
    if channels >= 256 and batch * height * width < 8192:  # few pixels: the channels have to keep the GPU busy
        return TapsConfig(tap_rows, 1, 32, 16)
    if channels >= 64:
        return TapsConfig(tap_rows, rows, 32, 8)
    return TapsConfig(tap_rows, rows, 128, 1)


def taps_candidates(config: TapsConfig) -> list[TapsConfig]:
    """Records around the default: rows of taps and of pixels, and threads for pixels and for channels."""
    _, rows, block, parts = config
    return variants(
        config,
        {"tap_rows": 1},
        {"rows": max(1, rows // 2)},
        {"rows": rows * 2},
        {"block": block * 2},
        {"parts": parts * 2},
        {"parts": parts * 4},
        {"parts": max(1, parts // 2), "block": block * 2},
    )
