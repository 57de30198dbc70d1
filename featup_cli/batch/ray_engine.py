"""The work of a run on a Ray cluster: Ray Data places workers, sends them pictures, and replaces those that die."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from featup_cli.batch.job import Job
from featup_cli.batch.records import Item, Record
from featup_cli.batch.worker import Worker
from featup_cli.core.errors import FeatUpError, UsageError, one_line
from featup_cli.core.memory import default_memory
from featup_cli.core.progress import Announce
from featup_cli.core.text import counted

TASK = 32  # pictures that a worker gets at once, at most
TASKS = 8  # that each worker gets, at least if there are enough pictures, so that all end at about the same time
PATIENCE = 10.0  # seconds in which a cluster must answer
OBJECTS = 200_000_000  # bytes that a local cluster keeps for messages, which are small
# Nothing is sent to Ray's makers, and its messages are suppressed, on stdout even those about workers that die.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
OPTIONS = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    "max_errored_blocks": -1,  # a task that is lost gives nothing, and the others go on
    "target_max_block_size": 1,  # each message as soon as it is said
}
FRUITLESS = 3  # deaths of each worker without a finished picture after which the run ends

_Message = tuple[str, Record] | Exception | None


@dataclass(frozen=True)
class _Fleet:
    """Number of workers, the cores and GPUs of each, and how many share the memory of a machine."""

    workers: int
    cpus: float
    gpus: int
    sharing: int


class _Actor:
    """A worker that Ray starts; it does one task after the other.

    Rows hold pickled values, as Ray's tables allow neither objects nor unusual file names. A task gives one message for
    each picture: a line about the backbone and a record, or None if a worker died; or the error that ends the run.
    """

    def __init__(self, job: Job, fleet: _Fleet, folder: str) -> None:
        import ray

        # Ray would try the task that its forerunner died of until it works. How often is for the run to say.
        self._after_death = ray.get_runtime_context().was_current_actor_reconstructed
        with suppress(OSError):  # it matters to relative paths alone, which will say that they are not there
            os.chdir(folder)
        threads = max(1, int(fleet.cpus))
        torch.set_num_threads(min(threads, torch.get_num_threads()))
        settings = job.settings
        if fleet.sharing > 1 and not fleet.gpus:
            memory = (settings.memory or default_memory(torch.device("cpu"))) // fleet.sharing
            settings = replace(settings, memory=memory)
        self._job = replace(job, settings=settings, threads=job.threads or min(threads, 8))
        self._worker: Worker | None = None

    def __call__(self, row: Mapping[str, Any]) -> Iterator[dict[str, bytes]]:
        for message in self._messages(pickle.loads(row["items"])):
            yield {"message": pickle.dumps(message)}

    def _messages(self, items: Sequence[Item]) -> Iterator[_Message]:
        if self._after_death:
            self._after_death = False
            yield from [None] * len(items)
            return
        try:
            self._worker = self._worker or Worker(self._job)
            for record in self._worker.records(items):
                yield self._worker.about, record
        except Exception as error:
            yield error


def run_on_ray(job: Job, items: Sequence[Item], workers: int | None, announce: Announce | None) -> Iterator[Record]:
    """Records of all items, as they finish, from workers of the cluster at RAY_ADDRESS or of a local one.

    Ray replaces a worker that dies. The pictures that it held are tried once more, one at a time, so that a picture
    that kills its worker fails alone.

    Args:
        job: what each worker does.
        items: the pictures; their paths must lead to the same files on all machines.
        workers: how many; None for one on each GPU, or one on each machine if there are none.
        announce: told about backbone and cluster; None for silence.
    Raises:
        UsageError: Ray isn't installed, or the settings are invalid.
        FeatUpError: the cluster can't be reached, or no worker stays alive.
    """
    left = dict.fromkeys(items)
    told: set[str] = set()

    def tell(text: str) -> None:
        if announce is not None and text not in told:
            announce(text)
        told.add(text)

    with _cluster() as ray:
        fleet = _plan(ray, job, workers)
        for size in (min(TASK, -(-len(items) // (TASKS * fleet.workers))), 1):
            fruitless = 0
            for message in _messages(ray, job, list(left), fleet, size):
                if isinstance(message, Exception):
                    raise message
                if message is None:
                    tell("note: a worker process died and is replaced")
                    fruitless += 1
                    if fruitless > FRUITLESS * fleet.workers * size:
                        raise FeatUpError("Ray workers keep dying; try fewer --workers, or a smaller --memory")
                    continue
                about, record = message
                fruitless = 0
                tell(f"{about}; {counted(fleet.workers, 'Ray worker')}")
                if left.pop(record.item, record) is None:  # what is done again may be told twice
                    yield _checked(record)
    for item in left:
        yield Record(item, "failed", error=f"{item.picture}: its worker process died twice")


def _messages(ray: ModuleType, job: Job, items: Sequence[Item], fleet: _Fleet, size: int) -> Iterator[_Message]:
    """Messages of the workers for tasks of `size` pictures."""
    if not items:
        return
    tasks = [{"items": pickle.dumps(items[start : start + size])} for start in range(0, len(items), size)]
    messages = ray.data.from_items(tasks, override_num_blocks=len(tasks)).flat_map(
        _Actor,
        fn_constructor_args=(job, fleet, os.getcwd()),
        compute=ray.data.ActorPoolStrategy(size=min(fleet.workers, len(tasks)), max_tasks_in_flight_per_actor=1),
        num_cpus=fleet.cpus,
        num_gpus=fleet.gpus,
    )
    try:
        for row in messages.iter_rows():
            yield pickle.loads(row["message"])
    except ray.exceptions.RayError as error:
        raise FeatUpError(f"Ray gave up: {one_line(error)}") from None


def _checked(record: Record) -> Record:
    """The record, or a failure if the files are on the disk of another machine."""
    if record.status == "failed" or os.path.exists(record.item.target):
        return record
    error = (
        f"{record.item.target}: was written, but is not visible here; give an output folder that all machines of the "
        "cluster share"
    )
    return Record(record.item, "failed", error=error)


def _plan(ray: ModuleType, job: Job, workers: int | None) -> _Fleet:
    """The workers that fit the cluster's present resources."""
    cores = [node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    gpus = int(ray.cluster_resources().get("GPU", 0))
    on_gpu = gpus > 0 and (job.settings.device == "auto" or job.settings.device.startswith("cuda"))
    count = workers or (gpus if on_gpu else len(cores)) or 1
    total = sum(cores) or 1
    cpus = min(total // count or total / count, *cores) if cores else 1
    return _Fleet(count, cpus, int(on_gpu), max(1, int(max(cores, default=1) // cpus)))


@contextmanager
def _cluster() -> Iterator[ModuleType]:
    """Ray, connected to a cluster; one that is started here is shut down."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'featup-cli[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        _connect(ray)
    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before, level = {name: getattr(context, name) for name in OPTIONS}, logger.level
    for name, option in OPTIONS.items():
        setattr(context, name, option)
    logger.setLevel(logging.CRITICAL)
    try:
        yield ray
    finally:
        logger.setLevel(level)
        for name, option in before.items():
            setattr(context, name, option)
        if ours:
            ray.shutdown()


def _connect(ray: ModuleType) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
        with _silence():
            if address:
                ray.init(address, **quiet)
            else:
                ray.init("local", include_dashboard=False, object_store_memory=OBJECTS, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise FeatUpError(f"Ray can't be reached or started: {one_line(error)}; check RAY_ADDRESS") from None


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress stderr, also that of native code: Ray reports there that its log level was set."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray would try for many minutes. Other forms are left to Ray."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
