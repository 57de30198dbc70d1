"""How many rows of a result fit the memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial

from featup_cli.core.errors import MemoryBudgetError
from featup_cli.core.memory import over_budget
from featup_cli.core.shapes import Size, describe_size
from featup_cli.upsamplers.api import Upsampler

MARGIN = 0.9  # of the free memory is planned with: allocators keep some of what was given back


def choose_rows(
    upsampler: Upsampler,
    lr_shape: Sequence[int],
    output_size: Size,
    memory: int,
    *,
    held: int = 0,
    method: str = "",
) -> int:
    """The most rows of a band that fit.

    Args:
        upsampler: whose `bands` will run.
        lr_shape: [B, C, h, w] of the features.
        output_size: (height, width) of the result.
        memory: bytes that may be used, of which `held` are taken already; a part of the rest is kept in reserve.
        method: its name, for the message.
    Raises:
        MemoryBudgetError: not even one row fits; the message holds the estimate.
    """
    sizes = range(1, output_size[0] + 1)
    rows = bisect_right(sizes, MARGIN * (memory - held), key=partial(upsampler.band_bytes, lr_shape, output_size))
    if rows == 0:
        needed = held + int(upsampler.band_bytes(lr_shape, output_size, 1) / MARGIN)
        raise memory_budget_error(needed, output_size, memory, method)
    return rows


def memory_budget_error(needed: int, output_size: Size, memory: int, method: str) -> MemoryBudgetError:
    """The error of an output of `output_size` that takes about `needed` bytes when `memory` may be used."""
    by_method = f" with --method {method}" if method else ""
    what = f"{describe_size(output_size, 'features')}{by_method} need"
    return over_budget(what, needed, memory, "a smaller --output-size, or another method")
