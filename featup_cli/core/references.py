"""References in records: texts that are resolved when what they name is needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve(reference: str) -> Any:
    """Import the object that `module:name` refers to."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
