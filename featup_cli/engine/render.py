"""Features of any size from a fitted model: no backbone, no fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featup_cli.core.checks import checked
from featup_cli.core.describe import choose_device, describe_device
from featup_cli.core.progress import Progress, no_progress
from featup_cli.core.shapes import Size, resolve_output_size
from featup_cli.core.versions import versions
from featup_cli.engine.bands import Task
from featup_cli.engine.result import Result
from featup_cli.engine.settings import Output
from featup_cli.engine.write import Describe, Written, make_features, write_files
from featup_cli.io.replace import refuse_replacing
from featup_cli.pictures.read import load_image
from featup_cli.upsamplers.implicit.method import METHOD
from featup_cli.upsamplers.implicit.saved import FittedModel, ModelUpsampler, load_model


@checked
def render(
    model: Path | str | FittedModel,
    *,
    output_size: str | int | Size | None = None,
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
        device: auto, cpu, cuda, ...
        memory: bytes for the whole process; None for a share of what is free.
        progress: called with (stage, done, total, score).
    Raises:
        InputError: no such model; UsageError: an unusable size.
        MemoryBudgetError: the result can't be made in that memory.

    Example:
        >>> import featup_cli as featup, torch
        >>> short = featup.ImplicitConfig(views=4, heldout_views=1, max_steps=2)
        >>> fitted = featup.upsample(torch.rand(3, 48, 64), method="implicit", resize=48, implicit=short)
        >>> featup.render(fitted.model, output_size="96x128").features.shape
        torch.Size([96, 96, 128])
    """
    rendering = open_rendering(model, output_size=output_size, image=image, device=device, memory=memory)
    start = time.perf_counter()
    task = rendering.task
    features = make_features(task, progress)
    record = rendering.describe(time.perf_counter() - start)
    return Result(features, None, task.picture, task.upsampler.details, record, task.model)


@dataclass(frozen=True)
class Rendering:
    """What is to be rendered.

    Attributes:
        stem: of the files, without the size.
        task: features, and their size.
        describe: gives the provenance.
        inputs: files that are read.
    """

    stem: str
    task: Task
    describe: Describe
    inputs: tuple[Path | str, ...]

    def write(self, folder: Path, output: Output, progress: Progress = no_progress, overwrite: bool = False) -> Written:
        """Stream the result to STEM.HEIGHTxWIDTH.safetensors in a folder, and a picture beside it.

        Raises:
            UsageError: a file exists, and `overwrite` is not given, or featup did not make it.
            OutputError: a file can't be written; others as `render`.
        """
        target = folder / "{}.{}x{}.safetensors".format(self.stem, *self.task.output_size)
        for path in output.files(str(target)).values():
            refuse_replacing(path, overwrite, self.inputs)
        return write_files(self.task, target, output, self.describe, progress)


def open_rendering(
    model: Path | str | FittedModel,
    *,
    output_size: str | int | Size | None = None,
    image: Path | str | None = None,
    device: str = "auto",
    memory: int | None = None,
) -> Rendering:
    """Load what is to be rendered; arguments and errors as `render`."""
    fitted, provenance = (model, {}) if isinstance(model, FittedModel) else load_model(model)
    height, width = provenance.get("input", {}).get("size") or fitted.guidance.size
    size = resolve_output_size(output_size, (height, width), fitted.network_size, fitted.grid)
    where = choose_device(device)
    picture = load_image(image) if image is not None else fitted.guidance
    shaped = torch.zeros(1, fitted.pca.basis.shape[1], *fitted.grid, device=where)
    task = Task(ModelUpsampler(fitted.to(where)), METHOD.name, picture, shaped, size, memory, fitted.pca)

    def describe(seconds: float) -> dict[str, Any]:
        facts = {"seconds": round(seconds, 3), "device": describe_device(where), "versions": versions()}
        return provenance | {"output_size": list(size), **facts}

    inputs = tuple(given for given in (model, image) if isinstance(given, Path | str))
    stem = "" if isinstance(model, FittedModel) else Path(model).name
    return Rendering(stem.removesuffix(".safetensors").removesuffix(".model"), task, describe, inputs)
