"""A share of the pictures for each of several independent runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from featup_cli.core.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count`."""

    index: int = 1
    count: int = 1

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th item, from the `index`-th on; each item is in exactly one shard."""
        return items if self.count == 1 else items[self.index - 1 :: self.count]


def parse_shard(text: str) -> Shard:
    """`3/16`, or `auto` for the shard that torchrun or SLURM assigns to this process.

    Read in this order: RANK and WORLD_SIZE (torchrun), SLURM_ARRAY_TASK_ID (a job array, with any first index and
    step), SLURM_PROCID and SLURM_NTASKS (srun).

    Raises:
        UsageError: an invalid form, or `auto` in a process that neither of them started.
    """
    if text == "auto":
        return _shard_of_environment()
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: expected INDEX/COUNT counted from 1, such as 3/16, or auto")
    return Shard(int(match[1]), int(match[2]))


def _shard_of_environment() -> Shard:
    def number(name: str, default: int | None = None) -> int:
        value = os.environ.get(name, default)
        if value is None:
            raise UsageError("--shard auto: neither torchrun nor SLURM started this process; give INDEX/COUNT")
        try:
            return int(value)
        except ValueError:
            raise UsageError(f"--shard auto: {name}={value} is not a number; give INDEX/COUNT") from None

    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        index, count = number("RANK"), number("WORLD_SIZE")
    elif "SLURM_ARRAY_TASK_ID" in os.environ:
        step = max(number("SLURM_ARRAY_TASK_STEP", 1), 1)
        index = (number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN", 0)) // step
        count = number("SLURM_ARRAY_TASK_COUNT")
    else:
        index, count = number("SLURM_PROCID"), number("SLURM_NTASKS")
    if not 0 <= index < count:
        raise UsageError(f"--shard auto: there is no shard {index + 1} of {count}; give INDEX/COUNT")
    return Shard(index + 1, count)


def local_device(device: str) -> str:
    """`auto` as the GPU that torchrun assigns to this process, if there is one; other names unchanged."""
    rank = os.environ.get("LOCAL_RANK")
    if device != "auto" or rank is None:
        return device

    import torch

    if not torch.cuda.is_available():
        return device
    return f"cuda:{int(rank) % torch.cuda.device_count()}"


@contextmanager
def join_shards(text: str | None) -> Iterator[Callable[[int], int]]:
    """A function that maps this process's exit status to the worst one of all `torchrun` processes.

    It waits for the others, since torchrun ends all processes as soon as one fails. Alone, it returns the status.
    """
    if text != "auto" or "RANK" not in os.environ:
        yield lambda status: status
        return

    from featup_cli.core.distributed import join_workers

    with join_workers() as workers:
        yield lambda status: max(workers.gather(status))
