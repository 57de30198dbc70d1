"""One worker: takes a stream of items and gives a record for each."""

from __future__ import annotations

import gc
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from featup_cli.backbones.api import Extracted
from featup_cli.backbones.config import describe_weights
from featup_cli.backbones.registry import find_loader
from featup_cli.batch.claims import Claims
from featup_cli.batch.job import Job, available_cores
from featup_cli.batch.queue import ItemQueue
from featup_cli.batch.records import Item, Record
from featup_cli.batch.resume import settle
from featup_cli.core.errors import error_message, one_line
from featup_cli.core.memory import default_memory, held_bytes
from featup_cli.core.progress import Announce, Progress, no_progress
from featup_cli.core.shapes import check_output_size, resolve_network_size
from featup_cli.core.text import counted
from featup_cli.engine.bands import unloaded_bytes
from featup_cli.engine.pipeline import Look, Pipeline
from featup_cli.engine.plan import Plan
from featup_cli.engine.request import remember
from featup_cli.pictures.basis import load_basis, stored_file
from featup_cli.pictures.masks import Mask
from featup_cli.pictures.read import Picture
from featup_cli.upsamplers.registry import METHODS

# One part in so many of the spare memory is for pictures in wait, and for features in work.
READ_SHARE, WRITE_SHARE = 8, 2
FLOATS = 3  # full-size float32 maps that a picture's features take while they are made and written


class Stopped(BaseException):
    """Aborts a picture when the run is stopped; no other code catches it."""


Take = Callable[[bool], Item | None]
"""Gives a worker its next item, or None if none is ready; if told to wait, None means that the run is done."""


@dataclass
class _Entry:
    """A picture in work."""

    item: Item
    picture: Picture
    plan: Plan
    mask: Mask | None = None
    extracted: Extracted | None = None  # of the batch of this one
    error: Exception | None = None


class Worker:
    """A loaded pipeline for a stream of items: reads ahead, extracts in batches, writes in parallel.

    Args:
        job: what to do.
        announce: told of downloads; None for silence.
        progress: called during the work on a picture, by several threads if there are several pictures.
        claims: on the pictures; None for new ones.
    Raises:
        UsageError, WeightsError: the settings are invalid, or weights are unavailable.
    """

    def __init__(
        self, job: Job, announce: Announce | None = None, progress: Progress = no_progress, claims: Claims | None = None
    ) -> None:
        self.job = job
        self.pipeline = Pipeline(job.settings, announce=announce)
        self._check_settings()
        self.request = self.pipeline.request(job.output)
        remember(job.settings, self.pipeline.loaded)
        self.progress = progress
        self.claims = claims or Claims(job.folder)
        on_cpu = self.pipeline.device.type == "cpu"
        self.batch = job.batch or (2 if on_cpu else 8)
        self.threads = job.threads or min(available_cores(), 8)
        # Fits draw from the one random state of the process, so that two at once would not be repeatable. On a CPU,
        # all but interpolation keep every core busy with one picture.
        method = METHODS[job.settings.method]
        several = method.light if on_cpu else not method.per_picture
        self.writers = self.threads if several else 1
        self.ahead = self.batch + self.threads
        spare = (job.settings.memory or default_memory(self.pipeline.device)) - held_bytes(self.pipeline.device)
        spare = max(spare - unloaded_bytes(job.settings.method, self.pipeline.device), 0)
        self._read_room, self._write_room = spare // READ_SHARE, Room(spare // WRITE_SHARE)
        self._stop = threading.Event()

    def _check_settings(self) -> None:
        """Raise an error for sizes, or a basis, that are unusable for every picture, before the first one."""
        settings, b, side = self.job.settings, self.pipeline.backbone, (1000, 1000)
        resolve_network_size(side, settings.resize, b.native_size, b.patch_multiple, b.fixed_size, "any picture")
        check_output_size(settings.output_size)
        if (basis := stored_file(self.job.output.basis)) is not None:
            load_basis(basis).check(b.channels, {"backbone": b.describe()}, "the run")

    @property
    def about(self) -> str:
        """One line that gives the backbone, its weights and device, and for published weights its loader's advice."""
        b = self.pipeline.backbone
        weights, network = describe_weights(b.weights_source), b.resolved
        if weights:  # the tag after the architecture is of published ones
            network = f"{b.details.get('architecture', network)}, {weights}"
        line = f"backbone {b.name} ({network}, {counted(b.channels, 'channel')}, stride {b.stride})"
        advice = "" if weights else find_loader(b.name).advice
        return f"{line} on {self.pipeline.device_name}" + (f"; {advice}" if advice else "")

    @property
    def depth(self) -> int:
        """Items that the worker holds at once when it is busy."""
        return self.ahead + self.writers

    def records(self, items: Sequence[Item]) -> Iterator[Record]:
        """Records of all items; those that another run is processing are tried again until they are done."""
        queue = ItemQueue(items)
        for record in self.stream(queue.take):
            if record.status == "busy":
                queue.put_back(record.item)
            else:
                yield record

    def stream(self, take: Take) -> Iterator[Record]:
        """Records in the order of the items; those that another run is processing have the status `busy`.

        Closing the iterator stops the work within one step, and leaves no partial file.
        """
        readers = ThreadPoolExecutor(self.threads, "read")
        writers = ThreadPoolExecutor(self.writers, "write")
        reading: deque[Future[_Entry | Record]] = deque()
        writing: deque[Future[Record]] = deque()
        self._stop.clear()
        largest = 0  # bytes of the largest picture so far; the next ones may be as large
        gc.collect()
        gc.freeze()  # collections need not look at what is loaded, again for each picture
        try:
            while True:
                while len(reading) < self.ahead and self._has_room(len(reading) + len(writing), largest):
                    item = take(not reading and not writing)
                    if item is None:
                        break
                    reading.append(readers.submit(self._read, item))
                if not reading and not writing:
                    return
                if reading and len(writing) <= self.writers:
                    entry = reading[0].result()
                    largest = max(largest, entry.picture.pixels.nbytes if isinstance(entry, _Entry) else 1)
                    if isinstance(entry, _Entry) and entry.extracted is None:
                        self._extract(_mates(entry, reading, self.batch))
                    reading.popleft()
                    writing.append(writers.submit(self._write, entry))
                if writing and (writing[0].done() or len(writing) > self.writers or not reading):
                    record = writing.popleft().result()
                    if record.status != "busy":
                        self.claims.release(record.item.target)
                    yield record
        finally:
            gc.unfreeze()
            self._stop.set()
            for pool in (readers, writers):
                pool.shutdown(wait=True, cancel_futures=True)
            self.claims.close()

    def _has_room(self, pictures: int, largest: int) -> bool:
        """Whether one more picture may be read. One always may; of unknown size, only one."""
        return pictures == 0 or 0 < largest * (pictures + 1) < self._read_room

    def _read(self, item: Item) -> _Entry | Record:
        if not self.claims.take(item.target):
            return Record(item, "busy")
        try:
            settled = settle(item, self.request, self.job)
            if settled is not None:
                return settled
            picture = self.pipeline.read(item.picture)
            plan = self.pipeline.plan(picture)
            return _Entry(item, picture, plan, self.pipeline.read_mask(item.mask, picture, plan) if item.mask else None)
        except Exception as error:
            return failure(item, error)

    def _extract(self, entries: list[_Entry]) -> None:
        """Features of pictures with one network input size; if the batch fails, of the first picture alone."""
        try:
            plan = entries[0].plan
            needed = self.pipeline.extraction_bytes(len(entries), plan)
            with self._write_room.hold(needed):
                if needed > self._write_room.limit:  # then no picture is being written, whose memory would count
                    self.pipeline.check_extraction(needed, plan)
                extracted = self.pipeline.extract([entry.picture for entry in entries], plan)
        except Exception as error:
            if len(entries) > 1:
                self._extract(entries[:1])
            else:
                entries[0].error = error
            return
        for i, entry in enumerate(entries):
            entry.extracted = extracted.of(i)

    def _write(self, entry: _Entry | Record) -> Record:
        if isinstance(entry, Record):
            return entry
        try:
            if entry.extracted is None:
                raise entry.error or RuntimeError("no features")
            lr_feats, class_token = entry.extracted
            channels, (height, width) = lr_feats.shape[1], entry.plan.output
            with self._write_room.hold(4 * FLOATS * channels * height * width):
                self._watch("", 0, 0, "")
                look = Look(entry.picture, entry.plan, lr_feats, class_token=class_token, mask=entry.mask)
                written = self.pipeline.write(look, Path(entry.item.target), self.job.output, self._watch)
        except Exception as error:
            return failure(entry.item, error)
        return Record(
            entry.item, "done", {kind: str(path) for kind, path in written.paths.items()}, tuple(written.shape),
            round(written.seconds, 3), written.scores, tuple(written.notes),
        )  # fmt: skip

    def _watch(self, stage: str, done: int, total: int, score: str) -> None:
        if self._stop.is_set():
            raise Stopped
        if stage:
            self.progress(stage, done, total, score)


def _mates(first: _Entry, reading: Iterable[Future[_Entry | Record]], most: int) -> list[_Entry]:
    """The first picture, and others that are already read and have the same network input size."""
    entries = [first]
    for entry in (future.result() for future in reading if future.done()):
        if len(entries) == most:
            break
        if not isinstance(entry, _Entry) or entry is first or entry.extracted is not None:
            continue
        if entry.plan.network == first.plan.network:
            entries.append(entry)
    return entries


class Room:
    """Lets threads hold memory up to a limit; a thread that needs more than the limit waits until it is alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Wait for `count` bytes, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + count <= self.limit)
            self._held += count
        try:
            yield
        finally:
            with self._changed:
                self._held -= count
                self._changed.notify_all()


def failure(item: Item, error: Exception) -> Record:
    """The record of a picture that failed, with one line that names it; FEATUP_DEBUG=1 adds the traceback."""
    message = error_message(error)
    if message is None:
        message = f"unexpected {type(error).__name__}: {one_line(error)}; FEATUP_DEBUG=1 shows where"
    if os.environ.get("FEATUP_DEBUG", "0") != "0":
        message += "\n" + "".join(traceback.format_exception(error)).rstrip()
    if item.picture not in message:
        message = f"{item.picture}: {message}"
    return Record(item, "failed", error=message, exit_code=getattr(error, "exit_code", 1))
