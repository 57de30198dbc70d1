"""Launch configurations of the Triton kernels of `range_taps`."""

from __future__ import annotations

from typing import NamedTuple

from featup_kernels.launch import ceil_div, count_columns, unrolled_tap_rows, variants


class ForwardConfig(NamedTuple):
    """Constants of the forward kernel.

    Attributes:
        tap_rows: rows of taps whose scores a thread keeps, all or one.
        rows: pixels below each other that it computes.
        block: columns of pixels of a program, one a thread.
    """

    tap_rows: int
    rows: int
    block: int

    @property
    def threads(self) -> int:
        """Of a program."""
        return self.block

    def programs(self, batch: int, height: int, width: int) -> int:
        """How many cover taps of this size."""
        return ceil_div(count_columns(batch, height, width, self.rows), self.block)


class BackwardConfig(NamedTuple):
    """Constants of the two backward kernels.

    Attributes:
        inner_block: pixels of a program of the inner kernel, with `inner_threads`.
        inner_threads: of that program.
        channels: of the keys that a thread of the d_keys kernel computes.
        block: keys of a program of that kernel, one a thread.
    """

    inner_block: int
    inner_threads: int
    channels: int
    block: int

    @property
    def threads(self) -> int:
        """Of a program of the d_keys kernel."""
        return self.block

    def programs(self, batch: int, channels: int, height: int, width: int) -> int:
        """How many of the d_keys kernel cover keys of this shape."""
        return ceil_div(batch * height * width, self.block) * ceil_div(channels, self.channels)


def forward_config(k: int) -> ForwardConfig:
    """As many scores as fit in registers."""
    return ForwardConfig(unrolled_tap_rows(k), {1: 4, 3: 4, 5: 2}.get(k, 1), 128)


def forward_candidates(config: ForwardConfig) -> list[ForwardConfig]:
    """Records around the default."""
    _, rows, block = config
    return variants(
        config,
        {"tap_rows": 1},
        {"tap_rows": 1, "rows": rows * 2},
        {"rows": max(1, rows // 2)},
        {"rows": rows * 2},
        {"block": block // 2},
        {"block": block * 2},
    )


def backward_config(channels: int) -> BackwardConfig:
    """Up to 8 of the keys' channels a thread."""
    return BackwardConfig(256, 128, min(8, channels), 128)


def backward_candidates(config: BackwardConfig) -> list[BackwardConfig]:
    """Records around the default."""
    return variants(
        config,
        {"channels": max(1, config.channels // 2)},
        {"channels": config.channels * 2},
        {"block": config.block // 2},
        {"block": config.block * 2},
        {"inner_block": 128},
        {"inner_block": 512},
    )
