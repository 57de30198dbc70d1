"""Which implementation of an operation runs, and why another can't."""

from __future__ import annotations

from dataclasses import dataclass

OPERATIONS: dict[str, tuple[str, ...]] = {"adaptive_conv": ("reference",)}


class BackendError(RuntimeError):
    """A backend that was asked for by name can't run; there is no fall-back."""


@dataclass(frozen=True)
class BackendStatus:
    """One implementation of one operation; `why_not` is None when it can run here."""

    operation: str
    backend: str
    why_not: str | None


def backends() -> list[BackendStatus]:
    """Every implementation that this build has, best first, with the reason if it can't run on this machine."""
    return [BackendStatus(op, name, None) for op, names in OPERATIONS.items() for name in names]


def choose_backend(operation: str, asked: str) -> str:
    """Resolve "auto" to the first backend that can run.

    Raises:
        BackendError: a backend asked for by name doesn't exist or can't run; the message lists those that can.
    """
    statuses = [s for s in backends() if s.operation == operation]
    for status in statuses:
        if asked in ("auto", status.backend):
            if status.why_not is None:
                return status.backend
            if asked != "auto":
                raise BackendError(f"{operation}: backend {asked!r} can't run: {status.why_not}")
    able = ", ".join(s.backend for s in statuses if s.why_not is None)
    raise BackendError(f"{operation}: no backend {asked!r} in this build; available: {able}")
