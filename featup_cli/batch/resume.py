"""Find the pictures that are done, by the recorded request and not by the file name, and results not to be lost."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from featup_cli.batch.job import Job
from featup_cli.batch.records import Item, Record
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.settings import differences
from featup_cli.io.digest import file_sha256
from featup_cli.io.header import read_provenance
from featup_cli.io.replace import HINT, MOVE, may_be_ours, refuse_replacing

WHICH_FILES = ("model", "picture")
"""Parts of a request that only say which files are written; the files themselves tell."""


class Reason(NamedTuple):
    """Why a picture is to be processed, and the file with something else in it that this would replace, if any."""

    text: str
    replaces: str | None = None

    def refusal(self) -> str:
        """The message for such a file."""
        ours = self.replaces is not None and may_be_ours(self.replaces)
        return f"{self.replaces}: {self.text}; {HINT if ours else MOVE}"


def settle(item: Item, request: Mapping[str, Any], job: Job) -> Record | None:
    """The record of a picture that needs no work, or may not be processed; None if it is to be processed.

    Args:
        item: the picture and its feature file.
        request: `Pipeline.request` of this run.
        job: of this run.
    """
    return decide(item, None if job.overwrite else why_make(item, request, job.files(item)), job)


def decide(item: Item, reason: Reason | None, job: Job) -> Record | None:
    """As `settle`, by what `why_make` found; with `overwrite` that doesn't matter."""
    files = job.files(item)
    if job.overwrite:
        try:
            for path in files.values():
                refuse_replacing(path, overwrite=True, inputs=[item.picture, item.mask])
        except UsageError as error:
            return Record(item, "failed", error=str(error), exit_code=error.exit_code)
        return None
    if reason is None:
        return Record(item, "skipped", files)
    if reason.replaces is not None:
        return Record(item, "failed", error=reason.refusal(), exit_code=UsageError.exit_code, kept=True)
    return None


def why_make(item: Item, request: Mapping[str, Any], files: Mapping[str, str]) -> Reason | None:
    """The reason to process a picture, or None if its files are up to date.

    They are up to date if all exist, the feature file is whole, and it records the same request and the bytes of the
    picture, of its mask, and of each other file. These are read, but not decoded, and only if everything else agrees.

    Args:
        item: the picture, its feature file, and its mask.
        request: `Pipeline.request` of this run, of which the mask is no part yet.
        files: all that is wanted, by kind; `output` is the feature file.
    """
    target = files["output"]
    if not os.path.isfile(target):  # of a folder in its place writing says what is wrong
        # A run that was killed leaves what comes before the features; another program's file is no such thing.
        taken = next((path for path in files.values() if os.path.isfile(path) and not may_be_ours(path)), None)
        return Reason("no features yet") if taken is None else Reason("exists already, without features", taken)
    try:
        provenance = read_provenance(target)
    except InputError as error:
        # What can't be read is no loss, if it was ours.
        return Reason(f"can't be used: {error}", None if may_be_ours(target) else target)
    recorded = provenance.get("request")
    if not isinstance(recorded, dict):
        return Reason("the file doesn't record its settings", target)
    if item.mask:
        request = {**request, "mask": _sha256(item.mask)}
    changes = differences(_without_files(recorded), _without_files(request))
    if listed := ", ".join(f"{key} {_brief(before)} -> {_brief(after)}" for key, before, after in changes):
        return Reason(f"made with other settings: {listed}", target)
    return _why_again(item, provenance, files)


def _why_again(item: Item, provenance: Mapping[str, Any], files: Mapping[str, str]) -> Reason | None:
    """As `why_make`, of a feature file that holds what is wanted unless the picture has changed."""
    source, others = provenance.get("input"), provenance.get("files")
    if os.path.exists(item.picture) and _sha256(item.picture) != _text(source, "sha256"):
        return Reason("made from another picture", files["output"])
    missing = None
    for kind, path in files.items():
        if not os.path.isfile(path) or os.path.getsize(path) == 0:
            missing = missing or Reason(f"no {kind} yet")
        elif kind != "output" and _sha256(path) != _text(others, kind):
            return Reason("is not the one that was made with the features", path)
    return missing


def _without_files(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in WHICH_FILES}


def _brief(value: Any) -> str:
    """A setting for people; of a digest the start."""
    text = str(value)
    return text[:8] if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _text(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else None


def _sha256(path: str) -> str | None:
    """Digest of a regular file; None if there is none, as a pipe could not be read again."""
    if not os.path.isfile(path):
        return None
    try:
        return file_sha256(Path(path))
    except OSError:
        return None  # reading it as a picture will say what is wrong
