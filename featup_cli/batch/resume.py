"""Find the pictures that are done: by the recorded request, not by the file name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featup_cli.batch.records import Item
from featup_cli.core.errors import InputError
from featup_cli.core.settings import differences
from featup_cli.io.digest import file_sha256
from featup_cli.io.header import read_provenance


def why_make(item: Item, request: Mapping[str, Any], files: Mapping[str, str]) -> str | None:
    """The reason to process a picture, or None if its files are up to date.

    They are up to date if all exist, the feature file is whole, and it records the same request and the same bytes of
    the picture. The picture is read, but not decoded, and only if everything else agrees.

    Args:
        item: the picture and its feature file.
        request: `Pipeline.request` of this run.
        files: all that is wanted, by kind; `output` is the feature file.
    """
    if not os.path.lexists(files["output"]):
        return "no features yet"
    try:
        provenance = read_provenance(files["output"])
    except InputError as error:
        return f"can't be used: {error}"
    recorded = provenance.get("request")
    if not isinstance(recorded, dict):
        return "the file doesn't record its settings"
    if recorded != request:
        changes = (f"{key} {before} -> {after}" for key, before, after in differences(recorded, request))
        return f"made with other settings: {', '.join(changes)}"
    for kind, path in files.items():
        if not os.path.isfile(path) or os.path.getsize(path) == 0:
            return f"no {kind} yet"
    source = provenance.get("input")
    if _sha256(item.picture) != (source.get("sha256") if isinstance(source, dict) else None):
        return "made from another picture"
    return None


def _sha256(path: str) -> str | None:
    """Digest of a regular file; None if there is none, as a pipe could not be read again."""
    if not os.path.isfile(path):
        return None
    try:
        return file_sha256(Path(path))
    except OSError:
        return None  # reading it as a picture will say what is wrong
