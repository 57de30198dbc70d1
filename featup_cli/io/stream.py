"""Write a feature file as its rows are made, so that the features need not be whole in memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from featup_cli.core.errors import OutputError, ShapeError
from featup_cli.core.units import format_bytes
from featup_cli.io.atomic import atomic_path
from featup_cli.io.features import DTYPES, as_stored, check_storable
from featup_cli.io.header import EXACT, FACTORS, FEATURES, LAYOUTS, OPTIONAL, check_agreement

HEADER_ROOM = 16_384  # bytes for what is known only at the end, such as scores
_CHANNELS = 16  # converted at a time
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
        self, path: Path, stream: BinaryIO, name: str, shape: tuple[int, ...], dtype: torch.dtype,
        others: Mapping[str, Tensor], provenance: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.path, self.name, self.stream = path, name, stream
        self.shape, self.dtype, self.rows = shape, dtype, 0
        self.provenance = dict(provenance)
        kinds = {name: (dtype, shape)} | {other: (t.dtype, tuple(t.shape)) for other, t in others.items()}
        self.starts: dict[str, int] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        stop = 0
        # Wide types first, so that everything is aligned.
        for each, (kind, size) in sorted(kinds.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
            self.starts[each], stop = stop, stop + tensor_bytes(size, kind)
            self.entries[each] = {"dtype": _NAMES[kind], "shape": size, "data_offsets": (self.starts[each], stop)}
        self.header_size = -(-(len(self._header()) + HEADER_ROOM) // 8) * 8
        self._reserve(8 + self.header_size + stop)
        self.awaited = {other for other, tensor in others.items() if tensor.is_meta}
        for other in others.keys() - self.awaited:
            self._put(others[other], self.starts[other])

    def add(self, band: Tensor) -> None:
        """Write the next rows, [C, n, W].

        Raises:
            OutputError: values are NaN, infinite, or too large for the dtype.
            ShapeError: other channels or width, or more rows than there are.
        """
        channels, height, width = self.shape
        if band.ndim != 3 or (band.shape[0], band.shape[2]) != (channels, width) or self.rows + len(band[0]) > height:
            expected = f"[{channels}, at most {height - self.rows}, {width}]"
            raise ShapeError(f"band must be {expected}, not {list(band.shape)}")
        check_storable(self.path, self.name, band, self.dtype)
        for first in range(0, channels, _CHANNELS):
            for channel, rows in enumerate(as_stored(band[first : first + _CHANNELS], self.dtype), first):
                row = channel * height + self.rows
                self._put(rows, self.starts[self.name] + tensor_bytes((row, width), self.dtype))
        self.rows += band.shape[1]

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor whose values come later, of the shape and type that were announced; errors as `add`."""
        entry = self.entries[name]
        if name not in self.awaited or tensor.shape != entry["shape"]:
            raise ShapeError(f"{name} must be {list(entry['shape'])} and come once, not {list(tensor.shape)}")
        kind = DTYPES[entry["dtype"]]
        check_storable(self.path, name, tensor, kind)
        self._put(as_stored(tensor, kind), self.starts[name])
        self.awaited.discard(name)

    def finish(self) -> None:
        """Write the header; all rows must be there."""
        if self.awaited:
            raise ShapeError(f"{', '.join(sorted(self.awaited))} was not written")
        if self.rows != self.shape[1]:
            raise ShapeError(f"{self.rows} of {self.shape[1]} rows were written")
        header = self._header()
        if len(header) > self.header_size:
            raise OutputError(f"{self.path}: not written: its provenance grew by more than {HEADER_ROOM} bytes")
        self._write_at(0, self.header_size.to_bytes(8, "little") + header.ljust(self.header_size))

    def _header(self) -> bytes:
        featup = json.dumps(self.provenance, default=str)  # all ASCII: names of files may be no valid Unicode
        return json.dumps({"__metadata__": {"format": FEATURES, "featup": featup}, **self.entries}).encode()

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
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float16,
    factors: tuple[Tensor, Tensor] | None = None,
    maps: Mapping[str, Tensor | None],
    provenance: Mapping[str, Any],
) -> Iterator[FeatureWriter]:
    """Write a feature file by bands of rows, whole or not at all.

    Args:
        shape: [C, H, W] of the features, or [K, H, W] of the coefficients with `factors`.
        dtype: of the stored maps.
        factors: basis [K, C] and mean [C], stored in float32: what comes by bands are coefficients, and features are
            basis^T coefficients + mean. The file is about C / K times smaller, and expanded on reading.
        maps: tensors of `OPTIONAL` in the shapes of `LAYOUTS`, or None; those of `EXACT` are stored in
            types of their own. Values of a tensor on the meta device come later, by `FeatureWriter.put`.
        provenance: anything that JSON holds, paths as text; the writer's may be completed before the block ends.
    Raises:
        OutputError: the file can't be written, the disk is too small, or values can't be stored.
        ShapeError: a tensor of the wrong shape, or bands that are not the whole.
    """
    path = Path(path)
    if unknown := set(maps) - set(OPTIONAL):
        raise ShapeError(f"maps are {', '.join(OPTIONAL)} only, not {', '.join(sorted(unknown))}")
    kinds = dict.fromkeys(maps, dtype) | {name: DTYPES[kind] for name, kind in EXACT.items()}
    given = {name: (tensor, kinds[name]) for name, tensor in maps.items() if tensor is not None}
    given |= {name: (tensor, torch.float32) for name, tensor in zip(FACTORS[1:], factors or (), strict=False)}
    others = {}
    for name, (tensor, kind) in given.items():
        if not tensor.is_meta:
            check_storable(path, name, tensor, kind)
        others[name] = tensor.to(kind) if tensor.is_meta else as_stored(tensor, kind)
    streamed = "features" if factors is None else FACTORS[0]
    if len(shape) != 3 or min(shape) < 1:
        raise ShapeError(f"{streamed} must be [{LAYOUTS[streamed]}] and not empty, not {list(shape)}")
    check_agreement({streamed: shape} | {name: tuple(t.shape) for name, t in others.items()}, ShapeError, "")
    with atomic_path(path) as temporary, temporary.open("r+b", buffering=0) as stream:
        writer = FeatureWriter(path, stream, streamed, shape, dtype, others, provenance)
        yield writer
        writer.finish()


def save_features(
    path: Path | str,
    features: Tensor,
    *,
    factors: tuple[Tensor, Tensor] | None = None,
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    **maps: Tensor | None,
) -> None:
    """Write a feature file of a map [C, H, W] in memory; arguments and errors as `stream_features`."""
    with stream_features(
        path, shape=tuple(features.shape), dtype=dtype, factors=factors, maps=maps, provenance=provenance
    ) as writer:
        writer.add(features)
