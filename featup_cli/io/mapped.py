"""Feature files read by slices: the file is mapped, and only the bytes of a slice are read."""

from __future__ import annotations

import mmap
import operator
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.checks import checked
from featup_cli.core.errors import InputError
from featup_cli.io.features import DTYPES, check_finite
from featup_cli.io.header import OPTIONAL, described, in_three_lines, stored_parts

Index = int | slice | EllipsisType
"""What one axis of a mapped file is indexed with."""

PIECE = 16_000_000  # bytes of the file over which one piece of a slice may be spread
# NumPy has no bfloat16: its bits are read as integers.
_NUMPY = {"F16": "<f2", "BF16": "<i2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}


class MappedFeatures:
    """Features [C, H, W] of a file that stays on disk.

    Indexed like a NumPy array with integers, slices and `...`; every index gives a new tensor. Maps in factored storage
    are expanded for the slice alone. Use it as a context manager, or call `close`.

    Attributes:
        path: the file.
        shape: (C, H, W).
        dtype: of the tensors that indexing gives: as stored; float32 for factored storage, whose sums could be too
            large for the stored dtype.
        stored_dtype: of the map in the file.
        storage: `full` or `factored`.
        stored: shape and dtype of every map in the file, by name.
        provenance: how the features were made; empty for files that other programs wrote.
    """

    def __init__(
        self,
        path: Path,
        mapping: mmap.mmap,
        arrays: dict[str, np.ndarray],
        dtypes: dict[str, torch.dtype],
        provenance: dict[str, Any],
    ) -> None:
        self.path, self.provenance = path, provenance
        self.stored = {name: (array.shape, dtypes[name]) for name, array in arrays.items()}
        self.storage = "full" if "features" in arrays else "factored"
        main = "features" if self.storage == "full" else "coefficients"
        self.stored_dtype = self.stored[main][1]
        self.dtype = self.stored_dtype if self.storage == "full" else torch.float32
        channels = arrays["features" if self.storage == "full" else "mean"].shape[0]
        self.shape = (channels, *arrays[main].shape[1:])
        self._arrays, self._mapping = arrays, mapping
        self._factors: tuple[Tensor, Tensor] | None = None

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Tensor:
        """A copy of a slice.

        Raises:
            IndexError: out of range, or too many indices; TypeError: an index that is no integer, slice or `...`.
            InputError: the slice holds NaN or infinite values.
            ValueError: the file was closed.
        """
        channels, *position = _per_axis(index)
        if self.storage == "full":
            return self._read("features", (channels, *position))
        if self._factors is None:
            self._factors = self._read("basis").float(), self._read("mean").float()
        chosen = torch.from_numpy(np.array(np.arange(self.shape[0])[channels]))
        basis, mean = self._factors[0][:, chosen], self._factors[1][chosen]
        coefficients = self._read("coefficients", (slice(None), *position)).float()
        features = torch.tensordot(basis, coefficients, ([0], [0]))
        return features + mean.reshape(mean.shape + (1,) * (coefficients.ndim - 1))

    @property
    def lr_features(self) -> Tensor | None:
        """[C, h, w], read when asked for; None if the file holds none."""
        return self.read("lr_features")

    def read(self, name: str) -> Tensor | None:
        """A whole tensor of `io.header.OPTIONAL`, such as `class_token`; None if the file lacks it."""
        if name not in OPTIONAL:
            raise KeyError(f"{name!r} is none of {', '.join(OPTIONAL)}")
        return self._read(name) if name in self.stored else None

    def _read(self, name: str, index: tuple[int | slice, ...] = ()) -> Tensor:
        if name not in self._arrays:
            raise ValueError(f"{self.path} was closed")
        part = torch.from_numpy(self._copy(self._arrays[name][index]))
        part = part.view(torch.bfloat16) if self.stored[name][1] == torch.bfloat16 else part
        if part.numel():
            check_finite(self.path, name, part.reshape(1, -1))
        return part

    def _copy(self, view: np.ndarray) -> np.ndarray:
        """A part of the file in memory, copied by pieces of the first axis that still lies in the view."""
        rows = np.atleast_1d(view)
        copy = np.empty(rows.shape, rows.dtype)
        step = max(PIECE // max(abs(rows.strides[0]), 1), 1)
        for start in range(0, len(rows), step):
            copy[start : start + step] = rows[start : start + step]
            if hasattr(self._mapping, "madvise"):
                # Pages that were touched, and their neighbours, count as this process's memory until it lets go of
                # them; the system's cache keeps them.
                self._mapping.madvise(mmap.MADV_DONTNEED)
        return copy.reshape(view.shape)

    def close(self) -> None:
        """Let go of the file; tensors that were read stay valid."""
        self._arrays, self._factors = {}, None
        self._mapping.close()

    def __enter__(self) -> MappedFeatures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return in_three_lines("MappedFeatures", self.shape, self.dtype, self.provenance)


def _per_axis(index: Index | tuple[Index, ...]) -> list[int | slice]:
    """One integer or slice for every axis; NumPy says whether integers are in range."""
    given = index if isinstance(index, tuple) else (index,)
    filled: list[int | slice] = []
    for i in given:
        if isinstance(i, bool) or not (isinstance(i, slice | EllipsisType) or hasattr(i, "__index__")):
            raise TypeError(f"features are indexed with integers, slices and ..., not {type(i).__name__}")
        if not isinstance(i, EllipsisType):
            filled.append(i if isinstance(i, slice) else operator.index(i))
    at = next((n for n, i in enumerate(given) if i is Ellipsis), len(filled))
    if len(given) - len(filled) > 1 or len(filled) > 3:
        raise IndexError(f"too many indices for features [C, H, W]: {len(given)}")
    return [*filled[:at], *[slice(None)] * (3 - len(filled)), *filled[at:]]


@checked
def open_features(path: Path | str) -> MappedFeatures:
    """Map a feature file, or any safetensors file with one feature map; nothing but its header is read yet.

    `open_features(path)[:, y0:y1, x0:x1]` reads these bytes only. Files are understood as by `load_features`, and only
    the safetensors parser and a JSON parser ever see the bytes, so reading never runs code. Values are checked as they
    are read.

    Raises:
        InputError: the file is missing, damaged, of another format, or holds tensors of wrong shape or dtype.

    Example:
        >>> import featup_cli as featup, tempfile, torch
        >>> result = featup.upsample(torch.rand(3, 48, 64), method="bilinear", resize=48, output_size="image")
        >>> with featup.open_features(result.save(f"{tempfile.mkdtemp()}/photo.safetensors")) as features:
        ...     features.shape, features[:, 10:20, 5].shape
        ((96, 48, 64), torch.Size([96, 10]))
    """
    path = Path(path)
    header, provenance = described(path)
    parts = {part: stored for part, (_, stored) in stored_parts(path, header.tensors).items()}
    try:
        with path.open("rb") as stream:
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({error}); check the file") from None
    try:
        arrays = {part: np.ndarray(s.shape, _NUMPY[s.dtype], mapping, s.start) for part, s in parts.items()}
    except TypeError:  # another program made the file shorter in the meantime
        mapping.close()
        raise InputError(f"{path}: changed while it was opened; try again") from None
    return MappedFeatures(path, mapping, arrays, {part: DTYPES[s.dtype] for part, s in parts.items()}, provenance)
