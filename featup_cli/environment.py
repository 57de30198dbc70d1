"""Facts about this installation and machine: for `featup info` and for provenance."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from featup_cli._version import __version__
from featup_cli.config import METHODS
from featup_cli.errors import UsageError


@cache
def versions() -> dict[str, str]:
    """Versions of the program and of what its results depend on; looked up once, as that takes a while."""
    found = {"featup-cli": __version__, "python": platform.python_version()}
    for package in ("torch", "timm", "numpy", "pillow", "safetensors", "numba", "triton"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def choose_device(name: str) -> torch.device:
    """Resolve `auto` to the first accelerator, else the CPU; check a named one.

    Raises:
        UsageError: no such device, or it isn't there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"--device {name}: not available here; `featup info` lists what is") from None
    return device


def describe_device(device: torch.device) -> str:
    """A device's name and size, for people and records."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if device.type == "cpu":
        return f"{platform.machine()}, {torch.get_num_threads()} threads"
    return device.type


def describe_environment() -> dict[str, Any]:
    """Aliases, methods, upsamplers, devices, kernels and versions, as lists of rows."""
    from featup_kernels import backends

    from featup_cli.backbones.aliases import ALIASES
    from featup_cli.upsamplers.pretrained import describe_shipped

    devices = [torch.device("cpu")] + [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return {
        "backbones": [{"alias": name, "model": a.reference, "about": a.description} for name, a in ALIASES.items()],
        "methods": [{"method": name, "about": about} for name, about in METHODS.items()],
        "upsamplers": describe_shipped(),
        "devices": [{"device": str(d), "about": describe_device(d)} for d in devices],
        "kernels": [{"backend": s.backend, "device": s.device, "status": s.why_not or "would run"} for s in backends()],
        "versions": [{"package": name, "version": number} for name, number in versions().items()],
    }
