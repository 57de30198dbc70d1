"""Helpers to choose launch configurations: plain numbers, which need neither Triton nor a GPU.

`configs.py` of an operation maps a shape to a record of a kernel's constants. `triton.autotune` is not used: the first
call of every shape would time all candidates, and what runs would depend on what else the GPU did meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n, for n >= 1."""
    return 1 << (n - 1).bit_length()


def count_columns(batch: int, height: int, width: int, rows: int) -> int:
    """How many columns of `rows` pixels cover all images."""
    return batch * ceil_div(height, rows) * width


def unrolled_tap_rows(k: int, widest: int = 7) -> int:
    """Rows of taps that a kernel unrolls at once: all up to the `widest` window that fits in registers, or one."""
    return k if k <= widest else 1


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Constants of a kernel whose threads compute columns of pixels.

    Attributes:
        rows: pixels of the result below each other that a thread computes.
        block: columns of pixels of a program.
        parts: of `block` threads each; they take the same columns and different channels.
    """

    rows: int = 1
    block: int = 128
    parts: int = 1

    @property
    def threads(self) -> int:
        """Of a program."""
        return self.block * self.parts

    def blocks(self, batch: int, height: int, width: int) -> int:
        """How many blocks of columns cover a result of this size."""
        return ceil_div(count_columns(batch, height, width, self.rows), self.block)


@dataclass(frozen=True, kw_only=True)
class TapsConfig(Launch):
    """Constants of a kernel for the gradient of taps; its parts sum different channels.

    Attributes:
        tap_rows: rows of taps of a program, all or one.
    """

    tap_rows: int

    def programs(self, batch: int, k: int, height: int, width: int) -> int:
        """How many cover taps of this shape."""
        return self.blocks(batch, height, width) * (k // self.tap_rows)
