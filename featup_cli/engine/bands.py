"""A result in bands of rows that fit the memory."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featup_cli.core.errors import is_out_of_memory
from featup_cli.core.memory import default_memory, held_bytes, trim_heap
from featup_cli.core.shapes import Size
from featup_cli.engine.plan import FACTORED_COMPONENTS
from featup_cli.ops.pca import BLOCK, PCA, fit_pca
from featup_cli.ops.regions import BYTES
from featup_cli.pictures.masks import Mask
from featup_cli.pictures.read import Picture
from featup_cli.upsamplers.api import FLOAT, Upsampler
from featup_cli.upsamplers.bands import MARGIN, choose_rows, memory_budget_error
from featup_cli.upsamplers.implicit.saved import FittedModel
from featup_cli.upsamplers.registry import METHODS

BAND_BYTES = 2**28  # larger bands save no time
PICTURE_BYTES = 80_000_000  # of panels side by side, and of pictures that are read meanwhile
KERNEL_BYTES = 220_000_000  # the CPU kernels and their compiler, which are loaded at their first use


@dataclass(frozen=True)
class Task:
    """A result to be made.

    Attributes:
        upsampler: makes it; one that has the attributes `provenance` or `model` is asked for them.
        method: its name, for messages.
        picture: guides it.
        lr_feats: [1, C, h, w] on the device where the work is done.
        output_size: (height, width) of the result.
        memory: bytes that this process (on an accelerator: its tensors) may take; None for a share of what is free.
        pca: the basis to show features in; None for one of `lr_feats`, which are stored then.
        class_token: [C] of the backbone, which is stored too; None if it has none.
        mask: regions at the output size, whose mean features are stored too; None for no regions.
    """

    upsampler: Upsampler
    method: str
    picture: Picture
    lr_feats: Tensor
    output_size: Size
    memory: int | None = None
    pca: PCA | None = None
    class_token: Tensor | None = None
    mask: Mask | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the result."""
        return self.lr_feats.shape[1], *self.output_size

    @property
    def lr_features(self) -> Tensor | None:
        """[C, h, w], the backbone's own; None if there are none."""
        return self.lr_feats[0] if self.pca is None else None

    @property
    def model(self) -> FittedModel | None:
        """What the upsampler has fitted, if it fits anything, once there is a first band."""
        return getattr(self.upsampler, "model", None)

    def basis(self) -> PCA:
        """The basis of factored storage: the one in which a model was fitted, or else components of the tokens."""
        if self.model is None:
            return fit_pca(self.lr_feats[0].flatten(1).T, FACTORED_COMPONENTS)
        pca, device = self.model.pca, self.lr_feats.device
        return replace(pca, mean=pca.mean.to(device), basis=pca.basis.to(device))


def make_bands(task: Task, keep: bool = False) -> Iterator[Tensor]:
    """The result in bands [1, C, n, W] that fit the memory; when memory runs out all the same, smaller ones.

    Args:
        task: the result.
        keep: the bands will be held: one is made if it fits, else bands that fit beside the whole result.
    Raises:
        MemoryBudgetError: it can't be made in that memory.
    """
    upsampler, lr_feats, size = task.upsampler, task.lr_feats, task.output_size
    device = lr_feats.device
    image = task.picture.bytes()[None].to(device)
    memory, held = _budget(task)
    rows = size[0]
    if not keep or upsampler.band_bytes(lr_feats.shape, size, rows) > MARGIN * (memory - held):
        trim_heap()
        memory, held = _budget(task)
        held += FLOAT * math.prod(task.shape) if keep and device.type == "cpu" else 0
        rows = choose_rows(upsampler, lr_feats.shape, size, memory, held=held, method=task.method)
        rows = min(rows, max(1, BAND_BYTES // (FLOAT * task.shape[0] * size[1])))
    done = 0
    while True:
        try:
            for band in upsampler.bands(image, lr_feats, size, rows, done):
                done += band.shape[2]
                yield band
                del band
                if done < size[0]:
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


def _budget(task: Task) -> tuple[int, int]:
    """Bytes that may be used, and those that are held or will be taken by writing and showing."""
    device = task.lr_feats.device
    memory = default_memory(device) if task.memory is None else task.memory
    beside = PICTURE_BYTES + unloaded_bytes(task.method, device) + 3 * FLOAT * BLOCK * task.shape[0]
    beside += 0 if task.mask is None else BYTES * len(task.mask.ids) * task.shape[0]
    return memory, held_bytes(device) + (beside if device.type == "cpu" else 0)


def unloaded_bytes(method: str, device: torch.device) -> int:
    """What the kernels of a method will take on a CPU when they are first used; 0 once they are loaded."""
    loads = bool(METHODS[method].kernels) and device.type == "cpu" and "numba" not in sys.modules
    return KERNEL_BYTES if loads else 0
