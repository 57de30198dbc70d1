"""Several processes that train one upsampler, as `torchrun` starts them.

All processes hold the same weights. Each computes the gradients of its share of the batch; their mean is that of the
whole batch. Upsamplers have few parameters, so gradients travel in one piece.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from featup_cli.core.errors import UsageError

T = TypeVar("T")
TIMEOUT = timedelta(days=1)  # one process may wait long for another to fill its share of the cache


@dataclass(frozen=True)
class Workers:
    """This process (`rank` of `size`; `local_rank` on its machine) and the others; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items."""
        return items[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; waits for them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The main process's value."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors by their means over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def read_environment() -> Workers:
    """This process as WORLD_SIZE, RANK and LOCAL_RANK describe it; alone without them. Joins nothing.

    Raises:
        UsageError: they are no whole numbers, or there are several processes, but torchrun did not start this one.
    """
    texts = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    texts |= {name: os.environ[name] for name in texts if name in os.environ}
    try:
        workers = Workers(*(int(text) for text in texts.values()))
    except ValueError:
        given = ", ".join(f"{name}={text}" for name, text in texts.items() if name in os.environ)
        raise UsageError(
            f"{given}: must be whole numbers, as torchrun sets them; start the processes with it, or unset them"
        ) from None
    if workers.size == 1:
        return Workers()
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(
            f"WORLD_SIZE={workers.size} means several processes, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set: start them with torchrun, or unset WORLD_SIZE"
        )
    return workers


@contextmanager
def join_workers() -> Iterator[Workers]:
    """Join the other `torchrun` processes, as WORLD_SIZE, RANK and LOCAL_RANK say; without them, run alone.

    Raises:
        UsageError: as `read_environment`.
    """
    workers = read_environment()
    if workers.size == 1:
        yield workers
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(workers.local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield workers
    finally:
        dist.destroy_process_group()
        # Gloo's threads end with the last reference to the group; left to the end of the process they may abort it.
        gc.collect()
