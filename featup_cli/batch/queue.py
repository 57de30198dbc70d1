"""The items of a run, in order; those that another run is processing are retried later."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from featup_cli.batch.records import Item

PAUSE = 0.5  # seconds until a picture that another run is processing is asked for again


class ItemQueue:
    """Items to take, and to put back."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._next = 0
        self._later: deque[tuple[float, Item]] = deque()

    def __len__(self) -> int:
        """Items that no worker has taken."""
        return len(self._items) - self._next + len(self._later)

    def take(self, wait: bool) -> Item | None:
        """The next item; None if there is none now, and with `wait` only if none is left."""
        if self._next < len(self._items):
            self._next += 1
            return self._items[self._next - 1]
        if not self._later:
            return None
        if wait:
            time.sleep(max(0.0, self._later[0][0] - time.monotonic()))
        elif self._later[0][0] > time.monotonic():
            return None
        return self._later.popleft()[1]

    def put_back(self, item: Item) -> None:
        """Put an item back; it is retried after a pause, when no other is left."""
        self._later.append((time.monotonic() + PAUSE, item))
