"""Several worker processes on one machine, and the replacement of those that die."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from featup_cli.batch.job import Job
from featup_cli.batch.queue import PAUSE, ItemQueue
from featup_cli.batch.records import Item, Record
from featup_cli.batch.worker import Worker
from featup_cli.core.errors import FeatUpError
from featup_cli.core.progress import Announce

FRUITLESS = 3  # deaths in a row without a finished picture after which a worker isn't started again
PATIENCE = 20.0  # seconds that a worker has to clean up when it is told to stop


class _PipeQueue:
    """The items from the parent; ends at None or when the parent ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ended = False

    def take(self, wait: bool) -> Item | None:
        if self._ended or not (wait or self._connection.poll()):
            return None
        try:
            item: Item | None = self._connection.recv()
        except (EOFError, OSError):
            item = None
        self._ended = item is None
        return item


def _serve(job: Job, threads: int, connection: Connection) -> None:
    """Main function of a worker process."""
    # An interrupt reaches every process of a terminal; the parent alone decides, and says so by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        worker = Worker(job, announce=connection.send)
        connection.send((worker.depth, worker.about))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        for record in worker.stream(_PipeQueue(connection).take):
            connection.send(record)
    except (KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        pass  # told to stop, or the parent is gone
    except Exception as error:
        with suppress(OSError):
            connection.send(error)


@dataclass
class _Slot:
    """A worker slot: its present process, and the items that this process holds."""

    job: Job
    process: BaseProcess
    connection: Connection
    depth: int = 0  # 0 until it has loaded
    held: dict[Item, None] = field(default_factory=dict)
    fruitless: int = 0


def run_workers(jobs: Sequence[Job], queue: ItemQueue, announce: Announce | None = None) -> Iterator[Record]:
    """Records of all items, as they finish, from one process for each job.

    A worker that dies is replaced. The pictures that it held are tried once more, one at a time, so that a picture that
    kills its worker is identified and fails alone.

    Raises:
        FeatUpError: the settings are invalid, or no worker stays alive.
    """
    fleet = _Fleet(jobs, queue, announce)
    try:
        yield from fleet.records()
        fleet.dismiss()
    finally:
        fleet.stop()


class _Fleet:
    def __init__(self, jobs: Sequence[Job], queue: ItemQueue, announce: Announce | None) -> None:
        self._queue = queue
        self._announce = announce
        self._threads = max(1, torch.get_num_threads() // len(jobs))
        self._suspects: deque[Item] = deque()  # were held by a worker that died
        self._suspected: set[Item] = set()
        self._told: set[str] = set()
        self._slots: list[_Slot] = []
        for job in jobs:
            self._slots.append(_Slot(job, *self._start(job)))

    def _start(self, job: Job) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(job, self._threads, theirs), daemon=True)
        with _interrupts_ignored():
            process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return process, ours

    def records(self) -> Iterator[Record]:
        """Feed the workers and pass on their records until all items are done."""
        while True:
            for slot in self._slots:
                self._feed(slot)
            if not (len(self._queue) or self._suspects or any(slot.held for slot in self._slots)):
                return
            # Pictures that another run is processing come back after a pause, with no message.
            for ready in wait([slot.connection for slot in self._slots], timeout=PAUSE if len(self._queue) else None):
                slot = next(slot for slot in self._slots if slot.connection is ready)
                try:
                    message = slot.connection.recv()
                except (EOFError, OSError):
                    yield from self._replace(slot)
                    continue
                if isinstance(message, Record):
                    yield from self._note(slot, message)
                elif isinstance(message, Exception):
                    raise message
                elif isinstance(message, str):
                    self._tell(message)
                else:  # it has loaded
                    slot.depth, about = message
                    self._tell(about)

    def _feed(self, slot: _Slot) -> None:
        if not slot.depth or any(item in self._suspected for item in slot.held):
            return
        if self._suspects and not slot.held:
            self._send(slot, self._suspects.popleft())
            return
        # No more than its part of what is left, so that all workers end at about the same time.
        while len(slot.held) < min(slot.depth, -(-(len(self._queue) + len(slot.held)) // len(self._slots))):
            item = self._queue.take(wait=False)
            if item is None:
                return
            self._send(slot, item)

    def _send(self, slot: _Slot, item: Item) -> None:
        slot.held[item] = None
        with suppress(OSError):  # it died, which the next wait tells
            slot.connection.send(item)

    def _note(self, slot: _Slot, record: Record) -> Iterator[Record]:
        slot.held.pop(record.item, None)
        slot.fruitless = 0
        if record.status == "busy":
            self._queue.put_back(record.item)
        else:
            yield record

    def _replace(self, slot: _Slot) -> Iterator[Record]:
        """Replace a dead worker. Its items become suspects, to be tried alone; an item that was one fails."""
        slot.process.join()
        slot.connection.close()
        death = _describe_death(slot.process.exitcode)
        for item in slot.held:
            if item in self._suspected:
                error = f"{item.picture}: its worker process died twice ({death})"
                yield Record(item, "failed", error=error)
            else:
                self._suspected.add(item)
                self._suspects.append(item)
        slot.held, slot.depth = {}, 0
        slot.fruitless += 1
        if slot.fruitless <= FRUITLESS:
            self._tell(f"note: a worker process died ({death}); it is replaced")
            slot.process, slot.connection = self._start(slot.job)
            return
        self._slots.remove(slot)
        if not self._slots:
            raise FeatUpError(f"worker processes keep dying ({death}); try fewer --devices, or a smaller --memory")

    def _tell(self, text: str) -> None:
        if self._announce is not None and text not in self._told:
            self._told.add(text)
            self._announce(text)

    def dismiss(self) -> None:
        """Wait for the workers to finish."""
        for slot in self._slots:
            with suppress(OSError):
                slot.connection.send(None)
        for slot in self._slots:
            slot.process.join(PATIENCE)

    def stop(self) -> None:
        """Stop the running workers; they remove unfinished files."""
        for slot in self._slots:
            slot.process.terminate()
        for slot in self._slots:
            slot.process.join(PATIENCE)
            slot.process.kill()
            slot.process.join()
            slot.connection.close()


def _describe_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit status {code}"


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started in this context ignore interrupts from the start."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
