"""PyTorch's format, written piece by piece: the same as `torch.save`, without holding a large tensor.

A `.pt` file is an uncompressed zip archive: `data.pkl`, a pickle in which each tensor is a call of `_rebuild_tensor_v2`
on a numbered storage; `data/0`, `data/1`, ...: the bytes of the storages; `byteorder` and `version`. `torch.load` reads
it with `weights_only=True` and with `mmap=True`.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featup_cli.exporting.source import Source, raw
from featup_cli.io.atomic import atomic_path

_STORAGES = {
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float32: torch.FloatStorage,
    torch.float64: torch.DoubleStorage,
    torch.int64: torch.LongStorage,
}
_ALIGNMENT = 64  # of storages in the file, as in files of torch.save, for the sake of mmap=True
_LOCAL_HEADER, _ZIP64_FIELD = 30, 20  # bytes before a member's name, and after it


@dataclass(frozen=True)
class PiecewiseTensor:
    """A tensor to write without holding it: its shape, dtype, and bytes in row-major order."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Iterable[memoryview]

    @classmethod
    def of(cls, tensor: Tensor) -> PiecewiseTensor:
        """Wrap a tensor in memory."""
        return cls(tuple(tensor.shape), tensor.dtype, (raw(tensor),))


@dataclass(frozen=True)
class _Storage:
    tensor: PiecewiseTensor


class _Pickler(pickle.Pickler):
    """Writes tensors as torch.save does and collects what their storages will hold."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=2)
        self.storages: list[PiecewiseTensor] = []

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, PiecewiseTensor):
            return NotImplemented
        strides = tuple(math.prod(value.shape[axis + 1 :]) for axis in range(len(value.shape)))
        hooks: OrderedDict[str, Any] = OrderedDict()
        arguments = (_Storage(value), 0, value.shape, strides, False, hooks)
        return torch._utils._rebuild_tensor_v2, arguments

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        self.storages.append(value.tensor)
        number = str(len(self.storages) - 1)
        return "storage", _STORAGES[value.tensor.dtype], number, "cpu", math.prod(value.tensor.shape)


def save_piecewise(target: Path, value: Any) -> None:
    """Write a file that `torch.load` reads as `value`, with a tensor for each `PiecewiseTensor`.

    Args:
        value: of Python's own types and `PiecewiseTensor`.
    Raises:
        OutputError: as `atomic_path`.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(value)
    with atomic_path(target) as temporary, temporary.open("wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), buffer.getvalue())
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), sys.byteorder)
        for number, tensor in enumerate(pickler.storages):
            member = zipfile.ZipInfo(f"archive/data/{number}")
            begin = stream.tell() + _LOCAL_HEADER + len(member.filename) + _ZIP64_FIELD + 4
            padding = -begin % _ALIGNMENT
            member.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
            with archive.open(member, "w", force_zip64=True) as storage:
                for piece in tensor.pieces:
                    storage.write(piece)
        archive.writestr(zipfile.ZipInfo("archive/version"), "3\n")


def write_pt(target: Path, source: Source) -> None:
    """A dict: `features` [C, H, W], the other maps, `pca_basis` and `pca_mean` if projected, and `provenance`."""
    small = {name: PiecewiseTensor.of(tensor) for name, tensor in source.maps().items()}
    features = PiecewiseTensor(source.shape, source.dtype, source.planes(target.parent))
    save_piecewise(target, {"features": features, **small, "provenance": source.provenance})
