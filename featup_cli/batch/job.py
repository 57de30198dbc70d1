"""What each worker does, as plain values. Free of torch."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace

from featup_cli.batch.records import Item
from featup_cli.core.devices import parse_devices
from featup_cli.engine.settings import Output, Upsampling


@dataclass(frozen=True)
class Job:
    """What to do with each picture: plain values, which any engine can send to its workers.

    Attributes:
        settings: of the pipeline.
        output: which files to write.
        folder: of the outputs, where the claims are.
        overwrite: process pictures again even if they are up to date.
        batch: pictures that the backbone sees at once; None for 8 on an accelerator and 2 on a CPU.
        threads: that read, and that write; None for the number of cores, at most 8.
    """

    settings: Upsampling
    output: Output
    folder: str
    overwrite: bool = False
    batch: int | None = None
    threads: int | None = None

    def files(self, item: Item) -> dict[str, str]:
        """The files to write for an item, by kind."""
        return self.output.files(item.target)


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
            memory = (memory or _usable(name)) // sharing[name]
        threads = job.threads or max(1, min(8, available_cores() // len(names)))
        jobs.append(replace(job, settings=replace(job.settings, device=name, memory=memory), threads=threads))
    return jobs


def _usable(device: str) -> int:
    import torch

    from featup_cli.core.memory import default_memory

    return default_memory(torch.device(device))


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
