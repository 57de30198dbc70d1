"""How results are recorded, and what counts as the same."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

SAMPLES = 24
RTOL, ATOL = 2e-3, 1e-3  # between CPUs and versions of PyTorch; fits amplify rounding
UNRECORDED = ("versions",)  # objects whose keys are other packages


def platform_key() -> dict[str, Any]:
    """What the bits of a result on a CPU depend on besides the program."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        **{package: version(package) for package in ("torch", "timm", "numba", "numpy")},
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "processor": processor,
        "threads": torch.get_num_threads(),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, so that bits don't depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def digest(result: Tensor) -> dict[str, Any]:
    """The record of a result: shape, values at fixed places, and the SHA-256 of its float32 bytes."""
    values = result.detach().float().contiguous().numpy()
    places = ((np.arange(SAMPLES) * 0.6180339887498949 % 1) * values.size).astype(int)
    return {
        "shape": list(values.shape),
        "sample": [float(f"{value:.6g}") for value in values.ravel()[places]],
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    }


def structure(value: Any) -> Any:
    """The keys of a JSON value, nested; of a list those of its first element; no values."""
    if isinstance(value, dict):
        return {key: None if key in UNRECORDED else structure(part) for key, part in value.items()}
    if isinstance(value, list):
        return [structure(part) for part in value[:1] if isinstance(part, (dict, list))]
    return None


def tensors(state: dict[str, Tensor]) -> dict[str, str]:
    """Shape and number format of each tensor."""
    return {name: f"{list(value.shape)} {str(value.dtype)[6:]}" for name, value in state.items()}


def file_tensors(path: Path | str) -> dict[str, str]:
    """The same of a safetensors file."""
    with safe_open(path, "pt") as file:
        return tensors({name: file.get_tensor(name) for name in sorted(file.keys())})


def file_facts(path: Path | str) -> Any:
    """What a safetensors file of ours says about itself."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["featup"])


def differences(recorded: Any, found: Any, where: str = "", bits: bool = False) -> list[str]:
    """Where two records differ, a line each.

    Args:
        recorded, found: JSON values.
        where: path of keys that leads there, for the lines.
        bits: compare digests too.
    """
    if isinstance(recorded, dict) and isinstance(found, dict):
        lines = [f"{where}: {key!r} is gone" for key in recorded if key not in found]
        lines += [f"{where}: {key!r} is new" for key in found if key not in recorded]
        for key in recorded.keys() & found.keys():
            if key == "sample" or (key == "sha256" and "sample" in recorded):
                continue
            lines += differences(recorded[key], found[key], f"{where}.{key}", bits)
        return lines + (_digest_differences(recorded, found, where, bits) if "sample" in recorded else [])
    if isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        return [
            line
            for number, pair in enumerate(zip(recorded, found, strict=True))
            for line in differences(*pair, f"{where}[{number}]", bits)
        ]
    old, new = _named(recorded), _named(found)
    return [] if old == new else [f"{where}: was {old!r}, is {new!r}"]


def _named(value: Any) -> Any:
    """A list of parameters by their names, which say enough of two lists that differ in length."""
    if isinstance(value, list) and all(isinstance(part, dict) and "name" in part for part in value):
        return [part["name"] for part in value]
    return value


def _digest_differences(recorded: dict[str, Any], found: dict[str, Any], where: str, bits: bool) -> list[str]:
    old, new = (np.array(record["sample"]) for record in (recorded, found))
    if not np.allclose(new, old, rtol=RTOL, atol=ATOL):
        return [f"{where}: values differ by up to {np.abs(new - old).max():.3g}: were {old}, are {new}"]
    if bits and recorded.get("sha256") != found.get("sha256"):
        return [f"{where}: bits differ, sampled values by up to {np.abs(new - old).max():.3g}"]
    return []
