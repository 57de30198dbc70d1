"""Several runs on one folder at once: one run processes each picture, and a dead run holds no locks."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from featup_cli.batch.records import Item

try:
    import fcntl
except ImportError:  # Windows: pictures may be made twice there, and outputs are whole all the same
    fcntl = None  # type: ignore[assignment]

FILE = ".featup-claims"
OLD = 24 * 3600  # seconds after which an unfinished file is abandoned, whoever wrote it
_TEMPORARY = re.compile(r"\.(?P<stem>.+)-[0-9a-f]{12}\.(?:safetensors|png)", re.DOTALL)
_PRESENCE = 1 << 60  # the byte that every process with the file open has a shared lock on
_CUT = 80  # characters of a stem that a temporary name keeps


class Claims:
    """Locks on pictures, one byte each of a hidden file in the output folder.

    The system drops the locks of a process however it ends, and network file systems share them across machines. Where
    locks are unavailable, every claim is granted: a picture may be processed twice, but its files are whole.
    Locks belong to a process: the threads of one must not claim the same picture.

    Args:
        folder: of the outputs; nothing is written until it exists.
    """

    def __init__(self, folder: Path | str) -> None:
        self._path = Path(folder) / FILE
        self._descriptor: int | None = None
        self._opening = threading.Lock()

    def take(self, target: str) -> bool:
        """Claim the picture of a feature file; False if another process has it."""
        return not self._open() or self._lock(fcntl.LOCK_EX, _offset(target))

    def release(self, target: str) -> None:
        """Release a claim."""
        if self._descriptor is not None:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _offset(target))

    def close(self) -> None:
        """Release all claims. The last process removes the file, even if a dead process left it."""
        if self._descriptor is None and not (self._path.exists() and self._open()):
            return
        assert self._descriptor is not None
        if self._lock(fcntl.LOCK_EX, _PRESENCE):
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def _lock(self, kind: int, offset: int) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, 1, offset)
        except OSError as error:
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    def _open(self) -> bool:
        with self._opening:
            while self._descriptor is None:
                if fcntl is None:
                    return False
                try:
                    self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                except OSError:
                    return False
                self._lock(fcntl.LOCK_SH, _PRESENCE)
                if os.fstat(self._descriptor).st_nlink == 0:  # removed just before we were there
                    os.close(self._descriptor)
                    self._descriptor = None
            return True


def _offset(target: str) -> int:
    # By the last folders too, as names repeat; not by the whole path, which differs from one machine to another.
    name = "/".join(Path(target).parts[-3:])
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:7], "big")


def remove_abandoned(items: Sequence[Item], claims: Claims) -> int:
    """Remove unfinished files that a killed run left beside the outputs; returns how many.

    A temporary file is abandoned if it belongs to one of these pictures and no process claims that, or if nobody has
    written to it for a day.
    """
    unfinished: dict[str, str] = {}
    for folder in {os.path.dirname(item.target) for item in items}:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if match := _TEMPORARY.fullmatch(entry.name):
                        unfinished[entry.path] = os.path.join(folder, match["stem"])
        except OSError:
            continue  # no such folder yet
    if not unfinished:
        return 0
    stems = {stem for path in unfinished.values() for stem in (path, path.removesuffix(".model"))}
    targets = {item.target for item in items if os.path.splitext(item.target)[0] in stems}
    return sum(_remove(path, stem, targets, claims) for path, stem in unfinished.items())


def _remove(path: str, stem: str, targets: set[str], claims: Claims) -> bool:
    names = [
        f"{name}.safetensors" for name in (stem, stem.removesuffix(".model")) if len(os.path.basename(stem)) < _CUT
    ]
    target = next((name for name in names if name in targets), None)
    try:
        abandoned = claims.take(target) if target else time.time() - os.path.getmtime(path) > OLD
        if abandoned:
            os.unlink(path)
    except OSError:
        return False  # somebody else removed it, or may do so
    finally:
        if target is not None:
            claims.release(target)
    return abandoned
