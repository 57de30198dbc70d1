"""Feature files of three views, readers of exported files, and what must hold of every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.exporting.run import export
from featup_cli.io.features import load_features
from featup_cli.io.stream import save_features

CHANNELS, SIZE = 9, (13, 22)  # a picture of 26 x 44: features at half its size


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def provenance(name: str, backbone: str = "tiny") -> dict[str, Any]:
    return {"input": {"path": f"photos/{name}.jpg", "size": [26, 44]}, "backbone": {"name": backbone}}


def make(path: Path, seed: int = 0, dtype: torch.dtype = torch.float16, factored: bool = False) -> Path:
    maps: dict[str, Any] = {"features": random(CHANNELS, *SIZE, seed=seed)}
    if factored:
        factors = random(3, CHANNELS, seed=seed), random(CHANNELS, seed=seed)
        maps = {"features": random(3, *SIZE, seed=seed), "factors": factors}
    lr_features = random(CHANNELS, 2, 3, seed=seed)
    save_features(path, **maps, lr_features=lr_features, provenance=provenance(path.stem), dtype=dtype)
    return path


def make_views(folder: Path) -> list[Path]:
    """Three views, of which one is factored."""
    return [
        make(folder / f"{name}.safetensors", seed, factored=name == "b") for seed, name in enumerate(("c", "a", "b"))
    ]


def read_features(path: Path) -> np.ndarray:
    """[C, H, W] or [N, H, W, C] of any exported file, in float32."""
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as stored:
            return np.asarray(stored["features"], np.float32)
    if path.suffix == ".pt":
        with torch.serialization.safe_globals([type(Path())]):
            stored = torch.load(path, weights_only=True)
        tensor = stored if isinstance(stored, Tensor) else stored["features"]
        return tensor.float().numpy()
    stored = np.load(path)
    return np.asarray(stored if path.suffix == ".npy" else stored["features"], np.float32)


def read_basis(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Basis [K, C] and mean [C]: in the file, or beside it."""
    if (path.parent / "pca_dict.pt").exists():
        parts = torch.load(path.parent / "pca_dict.pt", weights_only=True)
        return parts["feature_pca_components"].numpy(), parts["feature_pca_mean"].numpy()
    if (path.parent / "pca.npz").exists():
        path = path.parent / "pca.npz"
    if path.suffix == ".npz":
        return np.load(path)["pca_basis"], np.load(path)["pca_mean"]
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as stored:
            return stored["pca_basis"][()], stored["pca_mean"][()]
    with torch.serialization.safe_globals([type(Path())]):
        stored = torch.load(path, weights_only=True)
    return stored["pca_basis"].numpy(), stored["pca_mean"].numpy()


def check_format(to: str, folder: Path, read: Callable[[Path], np.ndarray] = read_features) -> None:
    """Export views as they are, and in one basis that is stored; compare what a reader finds with what was given."""
    files = make_views(folder)
    features = [load_features(file).features.float().numpy() for file in files]
    for given, found in zip(features, _maps(export(files, to, output=folder / "whole"), read), strict=True):
        np.testing.assert_allclose(found, given, atol=2e-3, rtol=2e-3)
    written = export(files, to, output=folder / "out", components=4, dtype="float32")
    basis, mean = read_basis(written[0])
    assert basis.shape == (4, CHANNELS)
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-5)
    np.testing.assert_array_equal(read_basis(written[-1])[0], basis)
    for given, found in zip(features, _maps(written, read), strict=True):
        expected = np.einsum("kc,chw->khw", basis, given - mean[:, None, None])
        np.testing.assert_allclose(found, expected, atol=1e-2)


def _maps(written: list[Path], read: Callable[[Path], np.ndarray]) -> list[np.ndarray]:
    """[C, H, W] of each view, of one file or of several."""
    return list(read(written[0]).transpose(0, 3, 1, 2)) if len(written) == 1 else [read(path) for path in written]
