"""From an upsampler to files, in bands of rows that fit the memory: the whole result is never held."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featup_cli.core.errors import UsageError, is_out_of_memory
from featup_cli.core.memory import default_memory, held_bytes, trim_heap
from featup_cli.core.progress import Progress, no_progress
from featup_cli.io.atomic import atomic_path
from featup_cli.io.stream import FeatureWriter, check_room, stream_features, tensor_bytes
from featup_cli.ops.pca import BLOCK, PCA, fit_pca
from featup_cli.pictures.components import Preview
from featup_cli.pictures.panels import save_png
from featup_cli.pictures.read import Picture
from featup_cli.upsamplers.api import FLOAT, Upsampler
from featup_cli.upsamplers.bands import choose_rows, memory_budget_error
from featup_cli.upsamplers.implicit.saved import FittedModel, save_model
from featup_cli.upsamplers.registry import METHODS

FACTORED_COMPONENTS = 128
BAND_BYTES = 2**28  # larger bands save no time
PICTURE_BYTES = 80_000_000  # of panels side by side, and of pictures that are read meanwhile
KERNEL_BYTES = 220_000_000  # the CPU kernels and their compiler, which are loaded at their first use


@dataclass(frozen=True)
class Output:
    """Which files are written for a picture, and how.

    Attributes:
        dtype: float16, bfloat16 or float32.
        storage: `full`, or `factored` for coefficients and basis.
        model: write STEM.model.safetensors too, of methods that fit one.
        picture: write STEM.png too.
    """

    dtype: str = "float16"
    storage: str = "full"
    model: bool = False
    picture: bool = True


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


@dataclass(frozen=True)
class Task:
    """A result to be written.

    Attributes:
        upsampler: makes it; one that has the attributes `provenance` or `model` is asked for them.
        method: its name, for messages.
        picture: guides it.
        lr_feats: [1, C, h, w] on the device where the work is done.
        output_size: (height, width) of the result.
        memory: bytes that this process (on an accelerator: its tensors) may take; None for a share of what is free.
        show: the picture to show beside the features; None for none.
        pca: the basis to show features in; None for one of `lr_feats`, which are stored then.
    """

    upsampler: Upsampler
    method: str
    picture: Picture
    lr_feats: Tensor
    output_size: tuple[int, int]
    memory: int | None = None
    show: Picture | None = None
    pca: PCA | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the result."""
        return self.lr_feats.shape[1], *self.output_size


@torch.no_grad()
def write_files(
    task: Task, target: Path, output: Output, describe: Callable[[float], dict[str, Any]],
    progress: Progress = no_progress,
) -> Written:  # fmt: skip
    """Make a result and stream it to files. Each appears whole or not at all, `target` last.

    Args:
        task: the result.
        target: STEM.safetensors; STEM.png and STEM.model.safetensors lie beside it.
        output: which files are written, and how.
        describe: the provenance, given the seconds that the work took.
        progress: called after each band.
    Raises:
        MemoryBudgetError: the result can't be made in that memory.
        OutputError: a file can't be written.
        UsageError: a model is to be written, and the method fits none.
    """
    start = time.perf_counter()
    upsampler, size, dtype = task.upsampler, task.output_size, getattr(torch, output.dtype)
    lr_features = task.lr_feats[0] if task.pca is None else None
    factored = output.storage == "factored"
    most = min(task.shape[0], FACTORED_COMPONENTS) if factored else task.shape[0]
    check_room(target, tensor_bytes((most, *size), dtype))
    preview = None
    if output.picture:
        shown = None if task.show is None else task.show.pixels
        preview = Preview(size, lr_features, shown, task.pca)
    bands = make_bands(task)
    band: Tensor | None = next(bands)[0]
    # What a fit leaves is known once there is a first band.
    pca = _basis(task) if factored else None
    stored = (task.shape[0] if pca is None else len(pca.basis), *size)
    with stream_features(
        target, shape=stored, dtype=dtype, factors=None if pca is None else (pca.basis, pca.mean),
        maps=dict(upsampler.details.maps) | {"lr_features": lr_features},
        provenance=describe(0.0) | {"storage": output.storage},
    ) as writer:  # fmt: skip
        while band is not None:
            _store(writer, band, pca)
            if preview is not None:
                preview.add(band)
            progress("upsample", writer.rows, size[0], "")
            band = None  # given back before the next one is made
            band = next((following[0] for following in bands), None)
        paths = {"output": target}
        if output.model:
            paths["model"] = target.with_suffix(".model.safetensors")
            _write_model(paths["model"], task, describe(time.perf_counter() - start))
        if preview is not None:
            paths["picture"] = target.with_suffix(".png")
            save_png(paths["picture"], preview.render(upsampler.details.maps.get("uncertainty")))
        seconds = time.perf_counter() - start
        writer.provenance |= describe(seconds)
    notes = [*task.picture.notes, *upsampler.details.notes]
    return Written(paths, task.shape, seconds, upsampler.details.scores, notes)


def _store(writer: FeatureWriter, band: Tensor, pca: PCA | None) -> None:
    """Write rows [C, n, W], or their coefficients."""
    if pca is None:
        writer.add(band)
        return
    for part in band.split(max(1, BLOCK // band.shape[2]), dim=1):
        writer.add(pca.project(part))


def make_bands(task: Task) -> Iterator[Tensor]:
    """The result in bands [1, C, n, W] that fit the memory; when memory runs out all the same, smaller ones.

    Raises:
        MemoryBudgetError: it can't be made in that memory.
    """
    upsampler, lr_feats, size = task.upsampler, task.lr_feats, task.output_size
    device = lr_feats.device
    image = task.picture.bytes()[None].to(device)
    trim_heap()
    memory = default_memory(device) if task.memory is None else task.memory
    held = held_bytes(device) + _beside(task)
    rows = choose_rows(upsampler, lr_feats.shape, size, memory, held=held, method=task.method)
    rows = min(rows, max(1, BAND_BYTES // (FLOAT * task.shape[0] * size[1])))
    done = 0
    while True:
        try:
            for band in upsampler.bands(image, lr_feats, size, rows, done):
                done += band.shape[2]
                yield band
                del band
                trim_heap()
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            needed = upsampler.band_bytes(lr_feats.shape, size, rows)
            smaller = upsampler.band_bytes(lr_feats.shape, size, max(rows // 2, 1))
            if smaller == needed:  # one row, or a method that makes its whole result at once
                raise memory_budget_error(held + needed, size, memory, task.method) from None
            rows //= 2
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _basis(task: Task) -> PCA:
    """The basis of factored storage: the one in which a model was fitted, or else components of the tokens."""
    model: FittedModel | None = getattr(task.upsampler, "model", None)
    if model is not None:
        device = task.lr_feats.device
        return replace(model.pca, mean=model.pca.mean.to(device), basis=model.pca.basis.to(device))
    return fit_pca(task.lr_feats[0].flatten(1).T, FACTORED_COMPONENTS)


def _beside(task: Task) -> int:
    """What writing and showing will take besides, where the memory is that of the process."""
    if task.lr_feats.device.type != "cpu":
        return 0
    return PICTURE_BYTES + unloaded_bytes(task.method, task.lr_feats.device) + 3 * FLOAT * BLOCK * task.shape[0]


def unloaded_bytes(method: str, device: torch.device) -> int:
    """What the kernels of a method will take on a CPU when they are first used; 0 once they are loaded."""
    loads = bool(METHODS[method].kernels) and device.type == "cpu" and "numba" not in sys.modules
    return KERNEL_BYTES if loads else 0


def _write_model(path: Path, task: Task, provenance: dict[str, Any]) -> None:
    model: FittedModel | None = getattr(task.upsampler, "model", None)
    if model is None:
        raise UsageError(f"method {task.method} fits no model; use implicit")
    with atomic_path(path) as temporary:
        save_model(temporary, model, provenance)
