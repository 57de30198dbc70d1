"""What the choices of launch configurations share: plain numbers, which need neither Triton nor a GPU.

`configs.py` of an operation maps a shape to a record of a kernel's constants, and lists other sensible records beside
it; `featup_cli.benchmark.tuning` times them. `triton.autotune` is not used: the first call of every shape would time
all candidates, and what runs would depend on what else the GPU did meanwhile.
"""

from __future__ import annotations

from typing import Any, TypeVar

Config = TypeVar("Config", bound=tuple[Any, ...])
MOST_THREADS = 1024  # of a program, on any GPU


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The least power of two that is not below n, which is at least 1."""
    return 1 << (n - 1).bit_length()


def count_columns(batch: int, height: int, width: int, rows: int) -> int:
    """How many columns of `rows` pixels cover all images."""
    return batch * ceil_div(height, rows) * width


def unrolled_tap_rows(k: int, widest: int = 7) -> int:
    """Rows of taps that a kernel unrolls at once: all up to the `widest` window that fits in registers, or one."""
    return k if k <= widest else 1


def variants(config: Config, *changes: dict[str, int]) -> list[Config]:
    """The record with each set of changes, without repetitions, the record itself, and what has too many threads."""
    found: list[Config] = []
    for change in changes:
        other: Any = config._replace(**change)  # type: ignore[attr-defined]
        if other.threads <= MOST_THREADS and other != config and other not in found:
            found.append(other)
    return found
