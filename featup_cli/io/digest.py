"""Digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 2**20  # bytes


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
