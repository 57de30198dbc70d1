"""Features of any size from a fitted model: no backbone, no fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featup_cli.core.describe import choose_device, describe_device, versions
from featup_cli.core.progress import Progress, no_progress
from featup_cli.core.shapes import resolve_output_size
from featup_cli.engine.result import Result
from featup_cli.engine.write import Output, Task, Written, write_files
from featup_cli.pictures.read import Picture, load_image
from featup_cli.upsamplers.api import Details
from featup_cli.upsamplers.implicit.method import METHOD
from featup_cli.upsamplers.implicit.saved import FittedModel, ModelUpsampler, load_model


def render(
    model: Path | str | FittedModel,
    *,
    output_size: str | tuple[int, int] | None = None,
    image: Path | str | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> Result:
    """Features of any size from a fitted model.

    Args:
        model: file of `featup upsample --save-model`, or the model of a result.
        output_size: as for `upsample`; `image` means the size of the original picture.
        image: the original picture, for finer edges than the reduced copy in the model.
    Raises:
        InputError: no such model; UsageError: an unusable size.
    """
    scene = _open_scene(model, output_size, image, device)
    start = time.perf_counter()
    picture = scene.picture.tensor().to(scene.device)
    features = scene.model.render(picture, scene.output_size, progress)
    record = scene.describe(time.perf_counter() - start)
    return Result(features.cpu(), None, scene.picture, Details(), record, scene.model)


def render_files(
    model: Path | str,
    target: Path,
    output: Output,
    *,
    output_size: str | tuple[int, int] | None = None,
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
    pca = scene.model.pca
    shaped = torch.zeros(1, pca.basis.shape[1], *scene.model.grid, device=scene.device)
    upsampler = ModelUpsampler(scene.model)
    task = Task(upsampler, METHOD.name, scene.picture, shaped, scene.output_size, memory, show=scene.picture, pca=pca)
    return write_files(task, target, output, scene.describe, progress)


@dataclass(frozen=True)
class _Scene:
    """A fitted model on its device, the picture that guides it, and the size asked for."""

    model: FittedModel
    picture: Picture
    output_size: tuple[int, int]
    device: torch.device
    provenance: dict[str, Any]

    def describe(self, seconds: float) -> dict[str, Any]:
        return self.provenance | {
            "output_size": list(self.output_size), "seconds": round(seconds, 3),
            "device": describe_device(self.device), "versions": versions(),
        }  # fmt: skip


def _open_scene(
    model: Path | str | FittedModel, output_size: str | tuple[int, int] | None, image: Path | str | None, device: str
) -> _Scene:
    fitted, provenance = (model, {}) if isinstance(model, FittedModel) else load_model(Path(model))
    original = tuple(provenance.get("input", {}).get("size") or fitted.guidance.size)
    output = resolve_output_size(output_size, (original[0], original[1]), fitted.network_size, fitted.grid)
    where = choose_device(device)
    picture = load_image(image) if image is not None else fitted.guidance
    return _Scene(fitted.to(where), picture, output, where, provenance)
