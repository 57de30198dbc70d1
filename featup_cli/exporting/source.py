"""One feature file on its way into another format: projected, converted and handed out in small pieces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featup_cli.core.errors import InputError
from featup_cli.core.shapes import Size
from featup_cli.io.features import check_storable
from featup_cli.io.header import EXACT, LAYOUTS, OPTIONAL
from featup_cli.io.mapped import open_features
from featup_cli.io.stream import tensor_bytes
from featup_cli.ops.pca import PCA

PIECE = 8_000_000  # bytes of a piece, in float32


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row-major, in this machine's byte order."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class Source:
    """A feature file, and the conversion of its features.

    Attributes:
        path: the file.
        channels: C in the file.
        size: (H, W).
        dtype: dtype of the output.
        provenance: how the features were made; empty for files that other programs wrote.
        direct: whether the file holds the map itself, not factors of it.
        pca: projects the features to K channels; None leaves them as they are.
    """

    path: Path
    channels: int
    size: Size
    dtype: torch.dtype
    provenance: dict[str, Any] = field(default_factory=dict)
    direct: bool = True
    pca: PCA | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the output: (C or K, H, W)."""
        return (self.channels if self.pca is None else len(self.pca.basis), *self.size)

    @property
    def spooled(self) -> bool:
        """Whether `planes` needs a temporary file as large as the result."""
        return self.pca is not None or not self.direct

    @property
    def dtype_name(self) -> str:
        """Name of the output's dtype in NumPy and HDF5."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def bytes(self) -> int:
        """Size of the features in the output."""
        return tensor_bytes(self.shape, self.dtype)

    def convert(self, features: Tensor) -> Tensor:
        """Features in the basis and dtype of the output.

        Raises:
            OutputError: values are too large for the dtype.
        """
        if self.pca is not None:
            features = self.pca.project(features)
        if features.dtype != self.dtype:
            check_storable(self.path, "features", features, self.dtype)
        return features.to(self.dtype)

    def bands(self) -> Iterator[tuple[int, Tensor]]:
        """First row and features [C, rows, W] of one band after another."""
        height, width = self.size
        rows = max(PIECE // (4 * max(self.channels, self.shape[0]) * width), 1)
        with open_features(self.path) as features:
            for y in range(0, height, rows):
                yield y, self.convert(features[:, y : y + rows])

    def pixels(self) -> Iterator[memoryview]:
        """The features as [H, W, C], in pieces."""
        for _, band in self.bands():
            yield raw(band.permute(1, 2, 0))

    def planes(self, folder: Path) -> Iterator[memoryview]:
        """The features as [C, H, W], in pieces.

        Every channel of projected or factored features needs all stored data. So they are computed once, band by band,
        into an unnamed temporary file in `folder`, and read from there in the order of the format.
        """
        if not self.spooled:
            yield from self._stored_planes()
            return
        (channels, height, width), item = self.shape, self.dtype.itemsize
        with tempfile.TemporaryFile(dir=folder) as spool:
            for y, band in self.bands():
                for channel in range(channels):
                    spool.seek((channel * height + y) * width * item)
                    spool.write(raw(band[channel]))
            spool.seek(0)
            while piece := spool.read(PIECE):
                yield memoryview(piece)

    def _stored_planes(self) -> Iterator[memoryview]:
        height, width = self.size
        rows = min(max(PIECE // (4 * width), 1), height)
        step = max(PIECE // (4 * width * height), 1)
        with open_features(self.path) as features:
            for channel in range(0, self.channels, step):
                for y in range(0, height, rows):
                    yield raw(self.convert(features[channel : channel + step, y : y + rows]))

    def maps(self) -> dict[str, Tensor]:
        """The other maps of the file and the basis; those of feature space are projected too."""
        with open_features(self.path) as features:
            read = {name: features.read(name) for name in OPTIONAL}
        found = {
            name: self.convert(tensor) if name == "lr_features" else tensor.to(self.dtype)
            for name, tensor in read.items()
            if tensor is not None and name not in EXACT
        }
        for name in EXACT:
            if (tensor := read[name]) is not None:
                found[name] = self._projected(tensor) if LAYOUTS[name].endswith("C") else tensor
        return found | ({} if self.pca is None else {"pca_basis": self.pca.basis, "pca_mean": self.pca.mean})

    def _projected(self, tensor: Tensor) -> Tensor:
        """Vectors of feature space [..., C] in the basis of the output."""
        if self.pca is None:
            return tensor
        return self.pca.project(tensor.reshape(-1, self.channels)).reshape(*tensor.shape[:-1], -1)

    @property
    def picture_path(self) -> str:
        """Path of the source picture, as it was given; empty if the file does not record it."""
        path = self._input().get("path")
        return path if isinstance(path, str) else ""

    def picture(self) -> str:
        """The same path.

        Raises:
            InputError: the file does not record it.
        """
        if not self.picture_path:
            raise InputError(f"{self.path}: does not record its picture; create it with featup upsample from a file")
        return self.picture_path

    def picture_size(self) -> Size:
        """(height, width) of the source picture.

        Raises:
            InputError: the file does not record it.
        """
        size = self._input().get("size")
        if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
            raise InputError(f"{self.path}: does not record the size of its picture; create it with featup upsample")
        return size[0], size[1]

    def _input(self) -> dict[str, Any]:
        found = self.provenance.get("input")
        return found if isinstance(found, dict) else {}
