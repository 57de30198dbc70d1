"""A run over many pictures, planned before any work starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from featup_cli.batch.claims import Claims, remove_abandoned
from featup_cli.batch.inputs import find_inputs, refuse_address
from featup_cli.batch.job import Job, available_cores, split_job
from featup_cli.batch.masks import with_masks
from featup_cli.batch.names import name_outputs
from featup_cli.batch.queue import ItemQueue
from featup_cli.batch.records import Item, Record
from featup_cli.batch.resume import decide, settle, why_make
from featup_cli.batch.shards import Shard
from featup_cli.core.checks import checked
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.progress import Announce, Progress, no_progress
from featup_cli.engine.plan import feature_bytes, plan_sizes
from featup_cli.engine.request import Loaded, make_request, recall
from featup_cli.engine.settings import Output, Upsampling
from featup_cli.io.atomic import check_writable, parent_folder
from featup_cli.pictures.formats import picture_size


@checked
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
        mask: the mask of a single picture, or a folder of masks with the pictures' names; None for no masks.
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
    mask: Path | str | None = None

    def __post_init__(self) -> None:
        if self.engine == "ray" and (self.devices is not None or self.shard is not None):
            raise UsageError("--engine ray distributes the work itself: omit --devices and --shard, give --workers")
        if self.engine != "ray" and self.workers is not None:
            raise UsageError("--workers: needs --engine ray; on one machine give --devices 0,1 or cpu:2")


@dataclass(frozen=True)
class Preview:
    """The planned action for a picture.

    Attributes:
        item: the picture and its feature file.
        action: `skip`, `make`, `redo`, or `fail` if the picture doesn't exist or something would be replaced.
        reason: in words.
        bytes: about how large the feature file will be; None if nothing is made, or the picture can't be read.
    """

    item: Item
    action: str
    reason: str
    bytes: int | None = None


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
        count = 0
        for record in self._settled():
            yield record
            count += 1
        items = self.items[count:]
        if not items:
            return
        missing = next((item for item in items if not os.path.exists(item.target)), None)
        with ExitStack() as stack:
            if missing is not None and len(self.items) > 1:  # if all pictures fail, no folder is left behind
                stack.enter_context(parent_folder(Path(missing.target)))
                check_writable(missing.target)
            yield from self._work(items, announce, progress)

    def _work(self, items: Sequence[Item], announce: Announce | None, progress: Progress) -> Iterator[Record]:
        """The records of the pictures."""
        claims = Claims(self.jobs[0].folder)
        remove_abandoned(items, claims)
        if self.engine == "ray" or len(self.jobs) > 1:
            try:
                yield from self._share(items, announce)
            finally:
                remove_abandoned(items, claims)  # of workers that died
                claims.close()
            return

        _tell_of_loading(self.jobs[0], announce)

        from featup_cli.batch.worker import Worker

        worker = Worker(self.jobs[0], announce, progress, claims)
        if announce is not None:
            announce(worker.about)
        yield from worker.records(items)

    def _settled(self) -> Iterator[Record]:
        """Records of the first pictures that need no work, as far as that is known before anything is loaded."""
        job = self.jobs[0]
        loaded = None if job.overwrite or not self.items else recall(job.settings)
        if loaded is None:
            return
        request = make_request(job.settings, job.output, loaded)
        for item in self.items:
            record = settle(item, request, job)
            if record is None:
                return
            yield record

    def _share(self, items: Sequence[Item], announce: Announce | None) -> Iterator[Record]:
        """Records of several workers."""
        if self.engine == "ray":
            from featup_cli.batch.ray_engine import run_on_ray

            yield from run_on_ray(self.jobs[0], items, self.workers, announce)
        else:
            from featup_cli.batch.workers import run_workers

            yield from run_workers(self.jobs, ItemQueue(items), announce)

    def preview(self, announce: Announce | None = None) -> Iterator[Preview]:
        """The planned action for each picture, in order; nothing is written."""
        for problem in self.problems:
            yield Preview(problem.item, "fail", problem.error)
        job = self.jobs[0]
        loaded = recall(job.settings) or self._load(announce)
        with ThreadPoolExecutor(job.threads or available_cores()) as pool:
            for start in range(0, len(self.items), 1000):
                yield from pool.map(partial(_preview, job=job, loaded=loaded), self.items[start : start + 1000])

    def _load(self, announce: Announce | None) -> Loaded:
        """What requests say of the backbone and the upsampler, which are loaded for it."""
        _tell_of_loading(self.jobs[0], announce)

        from featup_cli.batch.worker import Worker

        return Worker(self.jobs[0], announce).pipeline.loaded


def _preview(item: Item, job: Job, loaded: Loaded) -> Preview:
    for path, missing in ((item.picture, "no such file"), (item.mask, f"no mask {item.mask}")):
        if path and not os.path.exists(path):
            return Preview(item, "fail", missing)
    request = make_request(job.settings, job.output, loaded)
    reason = why_make(item, request, job.files(item))
    record = decide(item, reason, job)
    if record is not None:
        return (
            Preview(item, "skip", "up to date") if record.status == "skipped" else Preview(item, "fail", record.error)
        )
    action = "redo" if os.path.exists(item.target) else "make"
    size = picture_size(item.picture)
    count = None
    if size is not None:
        plan = plan_sizes(job.settings, loaded.backbone, size, item.picture)
        count = feature_bytes(job.output, loaded.backbone["channels"], plan)
    return Preview(item, action, "up to date" if reason is None else reason.text, count)


def _tell_of_loading(job: Job, announce: Announce | None) -> None:
    """Say what takes the next seconds."""
    if announce is not None and "torch" not in sys.modules:
        announce(f"loading {job.settings.backbone.name} ...")


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
    if options.mask is not None:
        items = with_masks(items, found.sources, options.mask)
    job = Job(settings, output, str(folder), options.overwrite, options.batch, options.threads)
    share = (options.shard or Shard()).of(items)
    return Run(share, found.problems, split_job(job, options.devices), options.engine, options.workers)


@checked
def upsample_many(  # noqa: PLR0913 (a public call: its keywords mirror the command's options)
    inputs: Iterable[str | Path] | str | Path,
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
    mask: Path | str | None = None,
) -> Iterator[Record]:
    """Upsample the features of many pictures, as `featup upsample` but silently; one record each as it finishes.

    A picture that fails gives a record with the reason, and the others continue. Results that are up to date are
    skipped. With several workers, call it below `if __name__ == "__main__":`, as they import the main module.

    Args:
        inputs: one or several: pictures, folders, glob patterns, lists `*.txt`, or `-`; see `find_inputs`.
        folder: for the outputs; created if missing.
        settings: what to do with each picture.
        output: which files to write.
        recursive, devices, shard, overwrite, batch, threads, engine, workers, mask: as of `BatchOptions`.
    Raises:
        UsageError, InputError, WeightsError, OutputError: the run can't start; raised before the first record.

    Example:
        >>> import tempfile, featup_cli as featup
        >>> from PIL import Image
        >>> folder = tempfile.mkdtemp()
        >>> Image.new("RGB", (64, 48)).save(f"{folder}/photo.png")
        >>> settings = featup.Upsampling(method="bilinear", resize=48)
        >>> [record.status for record in featup.upsample_many(folder, f"{folder}/out", settings=settings)]
        ['done']
    """
    options = BatchOptions(recursive, devices, shard, overwrite, batch, threads, engine, workers, mask)
    inputs = [inputs] if isinstance(inputs, str | Path) else inputs
    return plan_run(inputs, folder, settings or Upsampling(), output or Output(), options).records()
