"""NumPy's formats: `.npy` and `.npz`, written piece by piece."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from featup_cli.exporting.source import Source
from featup_cli.io.atomic import atomic_path
from featup_cli.ops.pca import PCA


def write_array(stream: IO[bytes], shape: Sequence[int], dtype: str, pieces: Iterable[memoryview]) -> None:
    """Write one array in the `.npy` format of `numpy.load`, C order, version 1.0."""
    facts = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, facts)  # type: ignore[arg-type]
    for piece in pieces:
        stream.write(piece)


def write_npy(target: Path, source: Source) -> None:
    """`features` [C, H, W] alone."""
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        write_array(stream, source.shape, source.dtype_name, source.planes(target.parent))


def write_npz(target: Path, source: Source) -> None:
    """`features` [C, H, W], the other maps, `pca_basis` and `pca_mean` if projected, and `provenance` as JSON text.

    Not compressed, so that members can be read in part.
    """
    small = {name: tensor.numpy() for name, tensor in source.maps().items()}
    small["provenance"] = np.array(json.dumps(source.provenance))
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(zipfile.ZipInfo("features.npy"), "w", force_zip64=True) as member:
            write_array(member, source.shape, source.dtype_name, source.planes(target.parent))
        for name, array in small.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_basis(target: Path, pca: PCA) -> None:
    """`pca_basis` [K, C] and `pca_mean` [C] of formats that hold nothing but features, as `.npz`."""
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        np.savez(stream, pca_basis=pca.basis.numpy(), pca_mean=pca.mean.numpy())
