"""Versions of this installation, for provenance. Free of torch."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from featup_cli._version import __version__


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
