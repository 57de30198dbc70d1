"""Features of any size from a fitted model: no backbone, no fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featup_cli.core.describe import choose_device, describe_device, versions
from featup_cli.core.progress import Progress, no_progress
from featup_cli.core.shapes import Size, resolve_output_size
from featup_cli.engine.bands import Task
from featup_cli.engine.result import Result
from featup_cli.engine.write import Output, Written, make_features, write_files
from featup_cli.pictures.read import Picture, load_image
from featup_cli.upsamplers.api import Details
from featup_cli.upsamplers.implicit.method import METHOD
from featup_cli.upsamplers.implicit.saved import FittedModel, ModelUpsampler, load_model


def render(
    model: Path | str | FittedModel,
    *,
    output_size: str | Size | None = None,
    image: Path | str | None = None,
    device: str = "auto",
    memory: int | None = None,
    progress: Progress = no_progress,
) -> Result:
    """Features of any size from a fitted model.

    Args:
        model: file of `featup upsample --save-model`, or the model of a result.
        output_size: as for `upsample`; `image` means the size of the original picture.
        image: the original picture, for finer edges than the reduced copy in the model.
        memory: bytes for the whole process; None for a share of what is free.
        progress: called with (stage, done, total, score).
    Raises:
        InputError: no such model; UsageError: an unusable size.
        MemoryBudgetError: the result can't be made in that memory.
    """
    scene = _open_scene(model, output_size, image, device)
    start = time.perf_counter()
    features = make_features(scene.task(memory), progress)
    record = scene.describe(time.perf_counter() - start)
    return Result(features, None, scene.picture, Details(), record, scene.model)


def render_files(
    model: Path | str,
    target: Path,
    output: Output,
    *,
    output_size: str | Size | None = None,
    image: Path | str | None = None,
    device: str = "auto",
    memory: int | None = None,
    progress: Progress = no_progress,
) -> Written:
    """As `render`, streamed to files in bands within the memory that may be used.

    Args:
        target: STEM.safetensors; STEM.png lies beside it.
        output: which files are written, and how.
        memory: bytes for the whole process; None for a share of what is free.
    Raises:
        InputError: no such model; UsageError: an unusable size.
        MemoryBudgetError: the result can't be made in that memory; OutputError: a file can't be written.
    """
    scene = _open_scene(model, output_size, image, device)
    return write_files(scene.task(memory), target, output, scene.describe, progress)


@dataclass(frozen=True)
class _Scene:
    """A fitted model on its device, the picture that guides it, and the size asked for."""

    model: FittedModel
    picture: Picture
    output_size: Size
    device: torch.device
    provenance: dict[str, Any]

    def task(self, memory: int | None) -> Task:
        pca = self.model.pca
        shaped = torch.zeros(1, pca.basis.shape[1], *self.model.grid, device=self.device)
        upsampler = ModelUpsampler(self.model)
        return Task(upsampler, METHOD.name, self.picture, shaped, self.output_size, memory, pca)

    def describe(self, seconds: float) -> dict[str, Any]:
        return self.provenance | {
            "output_size": list(self.output_size), "seconds": round(seconds, 3),
            "device": describe_device(self.device), "versions": versions(),
        }  # fmt: skip


def _open_scene(
    model: Path | str | FittedModel, output_size: str | Size | None, image: Path | str | None, device: str
) -> _Scene:
    fitted, provenance = (model, {}) if isinstance(model, FittedModel) else load_model(Path(model))
    original = tuple(provenance.get("input", {}).get("size") or fitted.guidance.size)
    output = resolve_output_size(output_size, (original[0], original[1]), fitted.network_size, fitted.grid)
    where = choose_device(device)
    picture = load_image(image) if image is not None else fitted.guidance
    return _Scene(fitted.to(where), picture, output, where, provenance)
