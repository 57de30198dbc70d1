"""Launch configurations of the Triton kernels of `adaptive_conv`."""

from __future__ import annotations

from dataclasses import dataclass

from featup_kernels.launch import Launch, TapsConfig, ceil_div, power_of_two, unrolled_tap_rows


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Launch):
    """Constants of the forward and the d_source kernel; `channels` is how many a thread computes."""

    channels: int

    def programs(self, batch: int, channels: int, height: int, width: int) -> int:
        """How many cover a result of this shape."""
        return self.blocks(batch, height, width) * ceil_div(channels, self.channels * self.parts)


def filter_config(channels: int, height: int, k: int) -> FilterConfig:
    """128 threads, up to 4 channels and 4 rows a thread; `channels` and `height` are those of the result."""
    at_once = min(4, channels)
    parts = min(4, power_of_two(ceil_div(channels, at_once)))
    rows = 4 if k <= 7 and height > 2 else 1
    return FilterConfig(rows=rows, channels=at_once, block=128 // parts, parts=parts)


def taps_config(batch: int, channels: int, height: int, width: int, k: int) -> TapsConfig:
    """All taps of a pixel in the registers of a thread, if they fit; many channels go to several threads."""
    rows = {1: 4, 3: 4, 5: 2}.get(k, 1)
    tap_rows = unrolled_tap_rows(k)
    if channels >= 256 and batch * height * width < 8192:  # few pixels: the channels have to keep the GPU busy
        return TapsConfig(tap_rows=tap_rows, block=32, parts=16)
    if channels >= 64:
        return TapsConfig(tap_rows=tap_rows, rows=rows, block=32, parts=8)
    return TapsConfig(tap_rows=tap_rows, rows=rows)
