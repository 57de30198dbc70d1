"""A run over many pictures, planned before any work starts."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from featup_cli.batch.claims import Claims, remove_abandoned
from featup_cli.batch.inputs import find_inputs, refuse_address
from featup_cli.batch.job import Job, Worker, available_cores
from featup_cli.batch.names import name_outputs
from featup_cli.batch.queue import ItemQueue
from featup_cli.batch.ray_engine import run_on_ray
from featup_cli.batch.records import Item, Record
from featup_cli.batch.resume import why_make
from featup_cli.batch.shards import Shard
from featup_cli.batch.workers import run_workers
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.memory import default_memory
from featup_cli.core.progress import Announce, Progress, no_progress
from featup_cli.engine.pipeline import Upsampling
from featup_cli.engine.write import Output
from featup_cli.io.atomic import check_writable


@dataclass(frozen=True)
class BatchOptions:
    """How a run goes over its pictures; fields are those of `featup upsample`.

    Attributes:
        recursive: search subfolders.
        devices: one worker for each: `0,1`, `cpu:2`; None for one on the device of the settings.
        shard: the share of this run among several; None for all pictures.
        overwrite: process pictures again even if they are up to date.
        batch: pictures that the backbone sees at once; None to choose by device.
        threads: reader threads, and writer threads, of each worker; None to choose by cores.
        engine: `local`, or `ray` for the workers of a Ray cluster, which must see all paths.
        workers: Ray workers; None for one per GPU of the cluster, or one per machine if it has no GPUs.
    Raises:
        UsageError: options exclude each other.
    """

    recursive: bool = False
    devices: str | None = None
    shard: Shard | None = None
    overwrite: bool = False
    batch: int | None = None
    threads: int | None = None
    engine: str = "local"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.engine == "ray" and (self.devices is not None or self.shard is not None):
            raise UsageError("--engine ray distributes the work itself: omit --devices and --shard, give --workers")
        if self.engine != "ray" and self.workers is not None:
            raise UsageError("--workers: needs --engine ray; on one machine give --devices 0,1 or cpu:2")


@dataclass(frozen=True)
class Preview:
    """The planned action for a picture (`skip`, `make`, `redo`, or `fail` if it doesn't exist) and the reason."""

    item: Item
    action: str
    reason: str


@dataclass(frozen=True)
class Run:
    """The pictures, the inputs that were not found, and a job for each worker.

    `jobs` and `items` are plain values: another engine can send them to workers of its own, which call
    `Worker(job).records(items)`, as `ray_engine` does.

    Attributes:
        items: the pictures and their feature files.
        problems: records of the inputs that were not found.
        jobs: one for each worker process on this machine; for Ray a single one, which it copies.
        engine: `local` or `ray`.
        workers: Ray workers; None to choose by the cluster's resources.
    """

    items: Sequence[Item]
    problems: Sequence[Record]
    jobs: Sequence[Job]
    engine: str = "local"
    workers: int | None = None

    def __len__(self) -> int:
        """Number of records that the run gives."""
        return len(self.items) + len(self.problems)

    def records(self, announce: Announce | None = None, progress: Progress = no_progress) -> Generator[Record]:
        """Do the work: one record for each picture as it finishes.

        Closing the iterator stops the run and leaves no partial file; the same run resumes later.

        Args:
            announce: told of backbone and downloads; None for silence.
            progress: called during the work on a single picture; not with several workers.
        Raises:
            UsageError, WeightsError: the settings are invalid, or weights are unavailable.
            OutputError: the output folder can't be written.
        """
        yield from self.problems
        if not self.items:
            return
        missing = next((item for item in self.items if not os.path.exists(item.target)), None)
        if missing is not None and len(self.items) > 1:  # a single picture that fails leaves no folder behind
            check_writable(missing.target)
        claims = Claims(self.jobs[0].folder)
        remove_abandoned(self.items, claims)
        if self.engine == "ray" or len(self.jobs) > 1:
            try:
                if self.engine == "ray":
                    yield from run_on_ray(self.jobs[0], self.items, self.workers, announce)
                else:
                    yield from run_workers(self.jobs, ItemQueue(self.items), announce)
            finally:
                remove_abandoned(self.items, claims)  # of workers that died
                claims.close()
            return
        worker = Worker(self.jobs[0], announce, progress, claims)
        if announce is not None:
            announce(worker.about)
        yield from worker.records(self.items)

    def preview(self, announce: Announce | None = None) -> Iterator[Preview]:
        """The planned action for each picture, in order; nothing is written."""
        for problem in self.problems:
            yield Preview(problem.item, "fail", problem.error)
        job = self.jobs[0]
        worker = Worker(job, announce)

        def look(item: Item) -> Preview:
            if not Path(item.picture).exists():
                return Preview(item, "fail", "no such file")
            reason = why_make(item, worker.request, job.files(item))
            if reason is None:
                return Preview(item, "redo" if job.overwrite else "skip", "up to date")
            return Preview(item, "redo" if Path(item.target).exists() else "make", reason)

        with ThreadPoolExecutor(worker.threads) as pool:
            for start in range(0, len(self.items), 1000):
                yield from pool.map(look, self.items[start : start + 1000])


def plan_run(
    inputs: Iterable[str | Path], folder: Path | str, settings: Upsampling, output: Output, options: BatchOptions
) -> Run:
    """Find the pictures, name their outputs, and make a job for each worker; see `upsample_many`."""
    inputs = list(inputs)
    for path in (*inputs, folder):
        refuse_address(path)
    found = find_inputs(inputs, options.recursive, skip=folder)
    if not found.sources and not found.problems:
        raise InputError("no pictures were given")
    items = name_outputs(found, folder, picture=output.picture, model=output.model)
    job = Job(settings, output, str(folder), options.overwrite, options.batch, options.threads)
    share = (options.shard or Shard()).of(items)
    return Run(share, found.problems, split_job(job, options.devices), options.engine, options.workers)


def split_job(job: Job, devices: str | None) -> list[Job]:
    """A job for each of `devices` (`0,1`, `cuda:0`, `cpu:2` for two processes); workers of one device share its memory.

    Raises:
        UsageError: the text has another form.
    """
    names = parse_devices(devices) if devices is not None else [job.settings.device]
    if len(names) == 1:
        return [replace(job, settings=replace(job.settings, device=names[0]))]
    sharing = Counter(names)
    jobs = []
    for name in names:
        memory = job.settings.memory
        if sharing[name] > 1:
            memory = (memory or default_memory(torch.device(name))) // sharing[name]
        threads = job.threads or max(1, min(8, available_cores() // len(names)))
        jobs.append(replace(job, settings=replace(job.settings, device=name, memory=memory), threads=threads))
    return jobs


def parse_devices(text: str) -> list[str]:
    """`0,1` to cuda:0 and cuda:1; `cpu:2` to cpu twice; other names as they are.

    Raises:
        UsageError: the text has another form.
    """
    names: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:(\d+)|cpu(?::(\d+))?|(cuda(?::\d+)?|[a-z]+(?::\d+)?))\s*", part)
        if not match or match[2] == "0":
            raise UsageError(f"--devices {text}: expected GPU numbers (0,1), or cpu:2 for two processes on the CPU")
        if match[1]:
            names.append(f"cuda:{match[1]}")
        elif match[3]:
            names.append(match[3])
        else:
            names += ["cpu"] * int(match[2] or 1)
    return names


def upsample_many(  # noqa: PLR0913 (a public call: its keywords mirror the command's options)
    inputs: Iterable[str | Path],
    folder: Path | str = "features",
    *,
    settings: Upsampling | None = None,
    output: Output | None = None,
    recursive: bool = False,
    devices: str | None = None,
    shard: Shard | None = None,
    overwrite: bool = False,
    batch: int | None = None,
    threads: int | None = None,
    engine: str = "local",
    workers: int | None = None,
) -> Iterator[Record]:
    """Upsample the features of many pictures, as `featup upsample` but silently; one record each as it finishes.

    A picture that fails gives a record with the reason, and the others continue. Results that are up to date are
    skipped. With several workers, call it below `if __name__ == "__main__":`, as they import the main module.

    Args:
        inputs: pictures, folders, glob patterns, lists `*.txt`, or `-`; see `find_inputs`.
        folder: for the outputs; created if missing.
        settings: what to do with each picture.
        output: which files to write.
        recursive, devices, shard, overwrite, batch, threads, engine, workers: as of `BatchOptions`.
    Raises:
        UsageError, InputError, WeightsError, OutputError: the run can't start; raised before the first record.
    """
    options = BatchOptions(recursive, devices, shard, overwrite, batch, threads, engine, workers)
    return plan_run(inputs, folder, settings or Upsampling(), output or Output(), options).records()
