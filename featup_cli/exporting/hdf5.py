"""HDF5, written band by band; needs h5py."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

from featup_cli.core.errors import UsageError
from featup_cli.exporting.source import Source
from featup_cli.io.atomic import atomic_path


def load_h5py() -> ModuleType:
    """The package h5py.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError("--to hdf5 needs h5py: pip install 'featup-cli[hdf5]'") from None
    module: ModuleType = h5py
    return module


def write_hdf5(target: Path, source: Source) -> None:
    """Datasets `features` [C, H, W], the other maps, `pca_basis` and `pca_mean` if projected, `provenance` as JSON.

    The features are stored in one run, without chunks, so that any slice is read without unpacking.
    """
    small = source.maps()
    with atomic_path(target) as temporary, load_h5py().File(temporary, "w") as file:
        features = file.create_dataset("features", source.shape, source.dtype_name)
        for y, band in source.bands():
            features[:, y : y + band.shape[1]] = band.numpy()
        for name, tensor in small.items():
            file[name] = tensor.numpy()
        file["provenance"] = json.dumps(source.provenance)
