"""One way from an upsampler to whatever takes its rows: files, a picture, a tensor in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.errors import UsageError
from featup_cli.core.progress import Progress, no_progress
from featup_cli.engine.bands import Task, make_bands
from featup_cli.engine.plan import FACTORED_COMPONENTS
from featup_cli.engine.settings import Output
from featup_cli.io.atomic import atomic_path
from featup_cli.io.digest import file_sha256
from featup_cli.io.stream import FeatureWriter, check_room, stream_features, tensor_bytes
from featup_cli.ops.pca import BLOCK, PCA
from featup_cli.ops.regions import RegionSums
from featup_cli.pictures.basis import load_basis, stored_file
from featup_cli.pictures.components import Preview
from featup_cli.pictures.panels import save_png
from featup_cli.upsamplers.implicit.saved import save_model

Take = Callable[[Tensor], Any]
"""Takes the next rows [C, n, W] of a result."""

Sink = Callable[[Task], AbstractContextManager[Take]]
"""Where a result goes; all is done when it is left."""

Describe = Callable[[float], dict[str, Any]]
"""The provenance of a result, given the seconds that the work took; 0 for a draft."""


@dataclass(frozen=True)
class Written:
    """What was written for a picture.

    Attributes:
        paths: `output`, and `model` and `picture` if they were asked for.
        shape: [C, H, W] of the features.
        seconds: wall time of upsampling and writing, without the backbone.
        scores: numbers that the method reports about itself.
        notes: sentences that the user should read.
    """

    paths: dict[str, Path]
    shape: tuple[int, int, int]
    seconds: float
    scores: dict[str, float]
    notes: list[str]


@torch.no_grad()
def make(task: Task, sinks: Sequence[Sink], progress: Progress = no_progress, keep: bool = False) -> None:
    """Make a result, and give every band of it to all sinks.

    Args:
        task: the result.
        sinks: entered in this order, once there is a first band and what a fit leaves is known; left in reverse.
        progress: called after each band.
        keep: a sink holds the bands; see `make_bands`.
    Raises:
        MemoryBudgetError: the result can't be made in the memory that may be used.
    """
    bands = make_bands(task, keep)
    band: Tensor | None = next(bands)[0]
    rows = 0
    with ExitStack() as stack:
        takes = [stack.enter_context(sink(task)) for sink in sinks]
        while band is not None:
            for take in takes:
                take(band)
            rows += band.shape[1]
            progress("upsample", rows, task.output_size[0], "")
            band = None  # given back before the next one is made
            band = next((following[0] for following in bands), None)


def make_features(task: Task, progress: Progress = no_progress) -> Tensor:
    """The whole result in memory: [C, H, W], on the CPU; errors as `make`."""
    kept: list[Tensor] = []
    rows = 0

    def take(band: Tensor) -> None:
        nonlocal rows
        if band.shape == task.shape:
            kept.append(band.cpu())
            return
        if not kept:
            kept.append(torch.empty(task.shape, dtype=band.dtype))
        kept[0][:, rows : rows + band.shape[1]] = band
        rows += band.shape[1]

    make(task, [lambda _: nullcontext(take)], progress, keep=True)
    return kept[0]


def make_picture(task: Task, provenance: Mapping[str, Any], basis: Path | str) -> np.ndarray:
    """The PCA picture of a result: uint8 [H', W', 3]; errors as `make`, and of a basis that doesn't fit."""
    preview = _preview(task, provenance, basis)
    make(task, [lambda _: nullcontext(preview.add)])
    return preview.render(task.upsampler.details.maps.get("uncertainty"), provenance)


def write_files(
    task: Task, target: Path, output: Output, describe: Describe, progress: Progress = no_progress
) -> Written:
    """Make a result and stream it to files. Each appears whole or not at all, `target` last.

    Args:
        task: the result.
        target: STEM.safetensors; STEM.png and STEM.model.safetensors lie beside it.
        output: which files are written, and how.
        describe: gives the provenance.
        progress: called after each band.
    Raises:
        MemoryBudgetError: the result can't be made in that memory.
        OutputError: a file can't be written.
        InputError: the basis can't be used, or is for other features.
        UsageError: a model is to be written, and the method fits none.
    """
    start = time.perf_counter()
    channels = min(task.shape[0], FACTORED_COMPONENTS) if output.storage == "factored" else task.shape[0]
    check_room(target, tensor_bytes((channels, *task.output_size), getattr(torch, output.dtype)))
    paths = {kind: Path(path) for kind, path in output.files(str(target)).items()}
    sinks: list[Sink] = [partial(_feature_file, paths=paths, output=output, describe=describe, start=start)]
    if output.model:
        sinks.append(partial(_model_file, path=paths["model"], describe=describe, start=start))
    if output.picture:
        preview = _preview(task, describe(0.0), output.basis)
        sinks.append(partial(_picture_file, path=paths["picture"], preview=preview, describe=describe))
    make(task, sinks, progress)
    details = task.upsampler.details
    notes = [*task.picture.notes, *(task.mask.notes if task.mask else ()), *details.notes]
    return Written(paths, task.shape, time.perf_counter() - start, details.scores, notes)


@contextmanager
def _feature_file(
    task: Task, paths: Mapping[str, Path], output: Output, describe: Describe, start: float
) -> Iterator[Take]:
    regions = None if task.mask is None else RegionSums(task.mask.index, task.shape[0])
    pca = task.basis() if output.storage == "factored" else None
    channels = task.shape[0] if pca is None else len(pca.basis)
    with stream_features(
        paths["output"], shape=(channels, *task.output_size), dtype=getattr(torch, output.dtype),
        factors=None if pca is None else (pca.basis, pca.mean),
        maps=task.upsampler.details.maps | _beside(task, regions),
        provenance=describe(0.0) | {"storage": output.storage},
    ) as writer:  # fmt: skip

        def take(band: Tensor) -> None:
            _store(writer, pca, band)
            if regions is not None:
                regions.add(band)

        yield take
        if regions is not None:
            writer.put("region_features", regions.means())
        # It is left last, when the others are written.
        files = {kind: file_sha256(path) for kind, path in paths.items() if kind != "output"}
        writer.provenance |= describe(time.perf_counter() - start) | {"files": files}


def _beside(task: Task, regions: RegionSums | None) -> dict[str, Tensor | None]:
    """Tensors beside the features that no upsampler makes; means over regions are known at the end."""
    found = {"lr_features": task.lr_features, "class_token": task.class_token}
    if task.mask is None or regions is None:
        return found
    return found | {
        "region_features": torch.empty(len(regions.pixels), task.shape[0], device="meta"),
        "region_ids": torch.from_numpy(task.mask.ids),
        "region_pixels": torch.from_numpy(regions.pixels),
    }


def _store(writer: FeatureWriter, pca: PCA | None, band: Tensor) -> None:
    """Write rows [C, n, W], or their coefficients."""
    if pca is None:
        writer.add(band)
        return
    for part in band.split(max(1, BLOCK // band.shape[2]), dim=1):
        writer.add(pca.project(part))


@contextmanager
def _model_file(task: Task, path: Path, describe: Describe, start: float) -> Iterator[Take]:
    if task.model is None:
        raise UsageError(f"method {task.method} fits no model; use implicit")
    yield len  # of the features it takes nothing
    with atomic_path(path) as temporary:
        save_model(temporary, task.model, describe(time.perf_counter() - start))


@contextmanager
def _picture_file(task: Task, path: Path, preview: Preview, describe: Describe) -> Iterator[Take]:
    yield preview.add
    save_png(path, preview.render(task.upsampler.details.maps.get("uncertainty"), describe(0.0)))


def _preview(task: Task, provenance: Mapping[str, Any], basis: Path | str) -> Preview:
    file = stored_file(basis)
    stored = None if file is None else load_basis(file)
    if stored is not None:
        stored.check(task.shape[0], provenance, task.picture.source or "the picture")
    return Preview(task.output_size, task.lr_features, task.picture.pixels, task.pca, stored or str(basis))
