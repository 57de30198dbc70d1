"""Makers of feature files and fitted models that are damaged, dishonest or none at all."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save, save_file

from tests.faults.mutations import feature_files, model_files

Maker = Callable[[Path], None]
MARK = "FEATUP_FAULTS_MARK"
"""Environment variable: a folder that `Trap` would make."""


class Trap:
    """Unpickling this leaves a mark."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (os.environ[MARK],)


def holding(data: bytes) -> Maker:
    """Writes bytes."""

    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


def container(header: Any, data: bytes = b"", length: int | None = None) -> Maker:
    """A safetensors file of a header (JSON, or its bytes), of any length that it may claim, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return holding(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(shape: list[Any], start: Any, stop: Any, dtype: Any = "F32") -> dict[str, Any]:
    """What a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def one(shape: list[Any], start: Any, stop: Any, dtype: Any = "F32", data: int = 16) -> Maker:
    """A file with one tensor `features`, and so many bytes of data."""
    return container({"features": entry(shape, start, stop, dtype)}, bytes(data))


def tensors(metadata: dict[str, str] | None = None, **given: torch.Tensor) -> Maker:
    """A sound file with any tensors."""
    return holding(save(given, metadata))


def cut(at: int) -> Maker:
    """The first bytes of a sound feature file; counted from the end of its header if negative."""
    data = feature_files()["full"]
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return holding(data[:at] if at >= 0 else data[: end + at + 1])


def cut_data(missing: int) -> Maker:
    """A feature file without its last bytes; more of them if negative."""
    data = feature_files()["full"]
    return holding(data[:-missing] if missing > 0 else data + bytes(-missing))


def pickled(kind: str) -> Maker:
    """Something with code in it."""

    def make(path: Path) -> None:
        trap = {"features": Trap()}
        if kind == "pickle":
            path.write_bytes(pickle.dumps(trap))
        elif kind == "npz":
            with path.open("wb") as stream:
                np.savez(stream, np.array([Trap()]))
        else:
            torch.save(trap, path, _use_new_zipfile_serialization=kind == "torch")

    return make


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(20_000_000))
    return buffer.getvalue()


def sparse(path: Path) -> None:
    """A header that claims a terabyte, which the file has, and none of it on the disk."""
    size = 1 << 40
    container({"features": entry([1, 1, size], 0, size, "U8")})(path)
    os.truncate(path, path.stat().st_size + size)


def model(kind: str = "anchored", **changes: Any) -> Maker:
    """A fitted model whose facts or tensors are replaced; None takes them away."""
    return partial(_write_model, kind, changes)


def _write_model(kind: str, changes: dict[str, Any], path: Path) -> None:
    path.write_bytes(model_files()[kind])
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = json.loads(metadata["featup"])
    for name, value in changes.items():
        name = name.replace("__", ".")
        target = stored if name in stored else facts["config"] if name in facts["config"] else facts
        if value is None:
            del target[name]
        else:
            target[name] = value
    save_file(stored, path, metadata | {"featup": json.dumps(facts)})
