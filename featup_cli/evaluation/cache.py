"""Results of single pictures, kept by what they depend on, so that an interrupted run resumes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from featup_cli.io.atomic import atomic_path
from featup_cli.io.digest import file_sha256

Arrays = dict[str, np.ndarray]
UNRELATED = ("cli", "batch", "benchmarking", "exporting", "training")


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Digest of the program's own source, which a version number does not pin down while it is being changed.

    Packages that no result depends on (`UNRELATED`: the command line and the other applications) are left out.
    """
    kernels = find_spec("featup_kernels")
    assert kernels is not None
    digest = hashlib.sha256()
    for folder in (Path(__file__).parents[1], Path(str(kernels.origin)).parent):
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if name.parts[0] not in UNRELATED:
                digest.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


cached_sha256 = lru_cache(maxsize=4096)(file_sha256)
"""Digest of a file that does not change while the program runs."""


class Cache:
    """Arrays by a hash of everything that they depend on, one small file each.

    Args:
        folder: made when first written to; None keeps nothing.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder is not None else None

    def path(self, facts: dict[str, Any]) -> Path | None:
        """The file for results that depend on `facts` (JSON values) and on the program itself."""
        if self.folder is None:
            return None
        text = json.dumps([facts, code_sha256()], sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"

    def get(self, facts: dict[str, Any]) -> Arrays | None:
        """What was put there, or None; a damaged file counts as missing."""
        path = self.path(facts)
        if path is None or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None

    def put(self, facts: dict[str, Any], arrays: Arrays) -> None:
        """Keep arrays.

        Raises:
            OutputError: the folder can't be written.
        """
        path = self.path(facts)
        if path is not None:
            with atomic_path(path) as temporary:
                np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
