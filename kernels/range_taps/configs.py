"""Launch configurations of the Triton kernels of `range_taps`."""

from __future__ import annotations

from dataclasses import dataclass

from featup_kernels.launch import Launch, ceil_div, unrolled_tap_rows


@dataclass(frozen=True, kw_only=True)
class ForwardConfig(Launch):
    """Constants of the forward kernel; `tap_rows` is how many rows of taps a thread keeps scores of, all or one."""

    tap_rows: int


@dataclass(frozen=True, kw_only=True)
class BackwardConfig(Launch):
    """Constants of the two backward kernels.

    Attributes:
        inner_block: pixels of a program of the inner kernel, with `inner_threads`.
        inner_threads: of that program.
        channels: of the keys that a thread of the d_keys kernel computes; the inherited constants are of that kernel.
    """

    inner_block: int = 256
    inner_threads: int = 128
    channels: int

    def programs(self, batch: int, channels: int, height: int, width: int) -> int:
        """How many of the d_keys kernel cover keys of this shape."""
        return self.blocks(batch, height, width) * ceil_div(channels, self.channels)


def forward_config(k: int) -> ForwardConfig:
    """As many scores as fit in registers."""
    return ForwardConfig(tap_rows=unrolled_tap_rows(k), rows={1: 4, 3: 4, 5: 2}.get(k, 1))


def backward_config(channels: int) -> BackwardConfig:
    """Up to 8 of the keys' channels a thread."""
    return BackwardConfig(channels=min(8, channels))
