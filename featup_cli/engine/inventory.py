"""What there is: backbones, methods, devices and kernels here; and what a file is, from its header alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from featup_kernels import backends

from featup_cli.backbones.registry import ALIASES
from featup_cli.core.describe import describe_device, versions
from featup_cli.io.features import DTYPES, described
from featup_cli.io.mapped import open_features
from featup_cli.io.safetensors import Stored
from featup_cli.upsamplers.implicit.saved import FORMAT as MODEL_FORMAT
from featup_cli.upsamplers.registry import METHODS
from featup_cli.upsamplers.weights.file import FORMAT as UPSAMPLER_FORMAT
from featup_cli.upsamplers.weights.find import describe_shipped


def describe_environment() -> dict[str, Any]:
    """Aliases, methods, upsamplers, devices, kernels and versions, as lists of rows."""
    devices = [torch.device("cpu")] + [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return {
        "backbones": [{"alias": name, "model": a.reference, "about": a.description} for name, a in ALIASES.items()],
        "methods": [{"method": m.name, "about": m.about} for m in METHODS.values()],
        "upsamplers": describe_shipped(),
        "devices": [{"device": str(d), "about": describe_device(d)} for d in devices],
        "kernels": [{"backend": s.backend, "device": s.device, "status": s.why_not or "would run"} for s in backends()],
        "versions": [{"package": name, "version": number} for name, number in versions().items()],
    }


def describe_file(path: Path | str) -> dict[str, Any]:
    """What a file holds and how it was made; no tensor is read.

    Returns:
        JSON values: `file`, `kind` (`features`, `fitted model` or `upsampler weights`), `bytes`, and `tensors`: shape
        and dtype of each by name. Features have `shape` [C, H, W], `dtype`, `layout`, `storage` and `provenance`; the
        others whatever their metadata say.
    Raises:
        InputError: the file is missing, damaged, or none of these.
    """
    path = Path(path)
    header, metadata = described(path)
    formats = header.metadata.get("format"), metadata.get("format")
    tensors = {name: _describe_tensor(stored) for name, stored in header.tensors.items()}
    facts: dict[str, Any] = {"file": str(path), "kind": "features", "bytes": path.stat().st_size}
    if MODEL_FORMAT in formats or UPSAMPLER_FORMAT in formats:
        facts |= {
            "kind": "fitted model" if MODEL_FORMAT in formats else "upsampler weights",
            "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors.values()),
        }
        return {**facts, **metadata, **facts, "tensors": tensors}  # the file can't overrule what it is
    with open_features(path) as features:
        return facts | {
            "shape": list(features.shape), "dtype": _dtype_name(features.stored_dtype), "layout": "C H W",
            "storage": features.storage, "tensors": tensors, "provenance": features.provenance,
        }  # fmt: skip


def _describe_tensor(stored: Stored) -> dict[str, Any]:
    return {"shape": list(stored.shape), "dtype": _dtype_name(DTYPES.get(stored.dtype, stored.dtype))}


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
