"""Choose the implementation of an operation, and say why another can't run.

Three backends: `triton` (GPU), `cpu` (Numba) and `reference` (plain PyTorch, any device). "auto" takes the first that
can run; the environment variable FEATUP_KERNELS names another default. A backend that is named never falls back.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from functools import cache

import torch
from featup_kernels.operation import BACKENDS
from featup_kernels.registry import OPERATIONS

OLDEST_TRITON = (3, 3)  # the first whose compiler knows tuples, of which the kernels are made
FAST_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class BackendError(RuntimeError):
    """A backend that was requested by name can't run; no other one replaces it."""


@dataclass(frozen=True)
class BackendStatus:
    """One backend on one kind of device; `why_not` is None when it can run here."""

    backend: str
    device: str
    why_not: str | None


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@cache
def _triton_version() -> tuple[int, ...]:
    """(major, minor); the oldest supported version if Triton comes in a package of another name."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return OLDEST_TRITON
    return tuple(int(part) for part in version.split(".")[:2])


def interpreting() -> bool:
    """Whether Triton runs its kernels in the interpreter, on the CPU (TRITON_INTERPRET=1): for tests, very slow."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def why_not(backend: str, device: str, dtype: torch.dtype) -> str | None:
    """The reason why a backend can't run on tensors of this device type and dtype, or None if it can."""
    if backend == "reference":
        return None
    if dtype not in FAST_DTYPES:
        return f"it has no kernels for {dtype}"
    if backend == "cpu":
        if device != "cpu":
            return f"its kernels run on the CPU, but the tensors are on {device}"
        return None if _installed("numba") else "Numba is not installed (pip install numba)"
    if not _installed("triton"):
        return "Triton is not installed (it comes with PyTorch for GPUs on Linux)"
    if device == "cpu" and not interpreting():
        return "its kernels run on a GPU, but the tensors are on cpu (TRITON_INTERPRET=1 interprets them, for tests)"
    if not interpreting() and _triton_version() < OLDEST_TRITON:
        found, oldest = (".".join(map(str, version)) for version in (_triton_version(), OLDEST_TRITON))
        return f"its kernels need Triton {oldest}, which comes with PyTorch 2.7, but Triton {found} is installed"
    if device not in ("cpu", "cuda", "xpu"):
        return f"Triton does not support {device}"
    return None


def backends(device: str | None = None, dtype: torch.dtype = torch.float32) -> list[BackendStatus]:
    """Every backend, fastest first, with the reason if it can't run on `device` (default: the best one here)."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return [BackendStatus(name, device, why_not(name, device, dtype)) for name in BACKENDS]


def choose_backend(operation: str, asked: str, device: str, dtype: torch.dtype) -> str:
    """Resolve "auto" to the first backend that can run on tensors of this device type and dtype.

    Raises:
        BackendError: a named backend doesn't exist or can't run; the message says why and lists those that
            can.
    """
    if asked == "auto":
        asked = os.environ.get("FEATUP_KERNELS", "auto")
    has = (*OPERATIONS[operation].kernels, "reference")
    reasons = {name: why_not(name, device, dtype) if name in has else "it has none" for name in BACKENDS}
    able = [name for name, reason in reasons.items() if reason is None]
    if asked == "auto":
        # The interpreter is for tests: nobody wants it unasked.
        return next(name for name in able if (name, device) != ("triton", "cpu"))
    if asked in able:
        return asked
    problem = f"can't run: {reasons[asked]}" if asked in reasons else "does not exist"
    raise BackendError(f"{operation}: backend {asked!r} {problem}; available: {', '.join(able)}")


# What torch.compiler.assume_constant_result marks, without its import of the compiler (two seconds).
choose_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]
