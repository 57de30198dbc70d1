"""Facts about this installation and machine, for provenance."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from featup_cli._version import __version__
from featup_cli.core.errors import UsageError


@cache
def versions() -> dict[str, str]:
    """Versions of the program and its dependencies; looked up once, as that takes a while."""
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
        UsageError: the device doesn't exist or is unavailable.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"--device {name}: not available here; `featup info` lists the available devices") from None
    return device


def describe_device(device: torch.device) -> str:
    """A device's name and size, for people and records."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if device.type == "cpu":
        return f"{platform.machine()}, {torch.get_num_threads()} threads"
    return device.type
