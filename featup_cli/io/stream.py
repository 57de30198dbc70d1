"""Write a feature file as its rows are made: the features are never whole in memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from featup_cli.core.errors import OutputError, ShapeError
from featup_cli.core.memory import format_bytes
from featup_cli.io.atomic import atomic_path
from featup_cli.io.tensors import DTYPES, FORMAT, OPTIONAL, as_stored, check_agreement, check_storable

HEADER_ROOM = 16_384  # bytes for what is known only at the end, such as scores
_CHANNELS = 16  # converted at a time
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies: its dtype and shape, and its first byte, counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """One after its last byte."""
        return self.start + tensor_bytes(self.shape, self.dtype)


def tensor_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Size of a stored tensor."""
    return int(torch.Size(shape).numel()) * dtype.itemsize


def check_room(path: Path, needed: int) -> None:
    """Find out now whether `needed` bytes would fit on the disk of `path`, whose folder need not exist.

    Raises:
        OutputError: they don't; the message says how much is free.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _disk_full(path, needed, free)


def _disk_full(path: Path, needed: int, free: int) -> OutputError:
    return OutputError(
        f"{path}: can't be written: it needs {format_bytes(needed)} and {format_bytes(free)} of the disk are free; "
        "choose another output, a smaller --output-size, or --storage factored"
    )


class FeatureWriter:
    """A feature file that is being written; of `stream_features`.

    Attributes:
        provenance: how the features were made; what it holds at the end is stored.
    """

    def __init__(
        self, path: Path, stream: BinaryIO, name: str, shape: tuple[int, int, int], dtype: torch.dtype,
        others: Mapping[str, Tensor], provenance: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.path, self.name, self.stream = path, name, stream
        self.provenance = dict(provenance)
        kinds = {name: (dtype, shape)} | {other: (t.dtype, tuple(t.shape)) for other, t in others.items()}
        # Wide types first, so that everything is aligned.
        order = sorted(kinds, key=lambda each: (-kinds[each][0].itemsize, each))
        self.slots: dict[str, Slot] = {}
        stop = 0
        for each in order:
            self.slots[each] = Slot(kinds[each][0], kinds[each][1], stop)
            stop = self.slots[each].stop
        self.header_size = -(-(len(self._header()) + HEADER_ROOM) // 8) * 8
        self.rows = 0
        self._reserve(8 + self.header_size + stop)
        for other, tensor in others.items():
            self._put(tensor, self.slots[other].start)

    def add(self, band: Tensor) -> None:
        """Write the next rows, [C, n, W].

        Raises:
            OutputError: values are NaN, infinite, or too large for the dtype.
            ShapeError: other channels or width, or more rows than there are.
        """
        slot = self.slots[self.name]
        channels, height, width = slot.shape
        if band.ndim != 3 or (band.shape[0], band.shape[2]) != (channels, width) or self.rows + len(band[0]) > height:
            expected = f"[{channels}, at most {height - self.rows}, {width}]"
            raise ShapeError(f"band must be {expected}, not {list(band.shape)}")
        check_storable(self.path, self.name, band, slot.dtype)
        for first in range(0, channels, _CHANNELS):
            for channel, rows in enumerate(as_stored(band[first : first + _CHANNELS], slot.dtype), first):
                self._put(rows, slot.start + (channel * height + self.rows) * width * slot.dtype.itemsize)
        self.rows += band.shape[1]

    def finish(self) -> None:
        """Write the header; all rows must be there."""
        height = self.slots[self.name].shape[1]
        if self.rows != height:
            raise ShapeError(f"{self.rows} of {height} rows were written")
        header = self._header()
        if len(header) > self.header_size:
            raise OutputError(f"{self.path}: not written: its provenance grew by more than {HEADER_ROOM} bytes")
        self._write_at(0, self.header_size.to_bytes(8, "little") + header.ljust(self.header_size))

    def _header(self) -> bytes:
        featup = json.dumps(self.provenance, default=str)  # all ASCII: names of files may be no valid Unicode
        tensors = {
            name: {"dtype": _NAMES[s.dtype], "shape": s.shape, "data_offsets": (s.start, s.stop)}
            for name, s in self.slots.items()
        }
        return json.dumps({"__metadata__": {"format": FORMAT, "featup": featup}, **tensors}).encode()

    def _reserve(self, size: int) -> None:
        """Take all the disk that the file needs, so that a full one is noticed before the work and not after."""
        check_room(self.path, size)
        try:
            os.posix_fallocate(self.stream.fileno(), 0, size)
        except AttributeError:  # a system without it
            self.stream.truncate(size)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise _disk_full(self.path, size, shutil.disk_usage(self.path.parent).free) from None
            self.stream.truncate(size)  # a file system without it

    def _put(self, tensor: Tensor, start: int) -> None:
        flat = tensor.contiguous().flatten().view(torch.uint8)
        self._write_at(8 + self.header_size + start, flat.numpy().data)

    def _write_at(self, position: int, data: bytes | memoryview) -> None:
        self.stream.seek(position)
        while data:
            data = data[self.stream.write(data) :]


@contextmanager
def stream_features(
    path: Path | str,
    *,
    shape: tuple[int, int, int],
    dtype: torch.dtype = torch.float16,
    factors: tuple[Tensor, Tensor] | None = None,
    maps: Mapping[str, Tensor | None],
    provenance: Mapping[str, Any],
) -> Iterator[FeatureWriter]:
    """Write a feature file by bands of rows, whole or not at all; it is as `save_features` would write it.

    Args:
        shape: [C, H, W] of the features, or [K, H, W] of the coefficients with `factors`.
        dtype: of the stored maps.
        factors: basis [K, C] and mean [C]: what comes by bands are `coefficients`.
        maps: small tensors: lr_features, uncertainty, saliency, kernels; those that are None are left out.
        provenance: a draft; the writer's may be completed before the block ends.
    Raises:
        OutputError: the file can't be written, the disk is too small, or values can't be stored.
        ShapeError: a tensor of the wrong shape, or bands that are not the whole.
    """
    path = Path(path)
    if unknown := set(maps) - set(OPTIONAL):
        raise ShapeError(f"maps are {', '.join(OPTIONAL)} only, not {', '.join(sorted(unknown))}")
    others = {}
    for name, tensor in maps.items():
        if tensor is not None:
            check_storable(path, name, tensor, dtype)
            others[name] = as_stored(tensor, dtype)
    if factors is not None:
        for name, tensor in zip(("basis", "mean"), factors, strict=True):
            check_storable(path, name, tensor, torch.float32)
            others[name] = as_stored(tensor, torch.float32)
    streamed = "features" if factors is None else "coefficients"
    check_agreement({streamed: shape} | {name: tuple(t.shape) for name, t in others.items()}, ShapeError, "")
    with atomic_path(path) as temporary, temporary.open("r+b", buffering=0) as stream:
        writer = FeatureWriter(path, stream, streamed, shape, dtype, others, provenance)  # type: ignore[arg-type]
        yield writer
        writer.finish()
