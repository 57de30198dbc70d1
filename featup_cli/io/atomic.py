"""Write files so that a reader sees the whole new file or the old one, never a part."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featup_cli.core.errors import OutputError


def _create(temporary: Path) -> int:
    """Create an empty file and return its mode, which follows the user's umask."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _flush_to_disk(path: Path) -> None:
    # Opened for writing, since Windows flushes no read-only descriptor.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: Path | str) -> None:
    """Find out now whether `path` can be written later; nothing stays.

    Raises:
        OutputError: as `atomic_path`.
    """
    path = Path(path)
    with parent_folder(path), _reported(path):
        temporary = _temporary_for(path)
        _create(temporary)
        temporary.unlink()


@contextmanager
def parent_folder(path: Path) -> Iterator[None]:
    """In this context the folder of `path` exists; folders that were made for it and are empty at its end are removed.

    Raises:
        OutputError: a folder can't be made.
    """
    with _reported(path):
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # something is in it
            for folder in missing:
                folder.rmdir()


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}; choose another output") from None


def _temporary_for(path: Path) -> Path:
    """A hidden name beside `path`, which may be replaced, in a folder that exists."""
    if path.is_dir():
        raise OutputError(f"{path}: can't be written: it is a folder; give a file name")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: can't be written: it is not a regular file; give a file name")
    # The suffix is kept because writers choose the format by it; the stem is cut because names have a length limit,
    # 255 bytes on most systems.
    stem = path.stem[:80]
    while len(os.fsencode(stem)) > 200:
        stem = stem[:-1]
    return path.parent / f".{stem}-{secrets.token_hex(6)}{path.suffix}"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a hidden path to write in the same folder; it becomes `path` if the block succeeds, else it is removed.

    The block does nothing but write: any OSError in it is reported as a failure to write `path`. Missing parent
    folders are made; they stay if it succeeds. An existing regular file is replaced; devices and folders never are.

    Raises:
        OutputError: the folder can't be made or written, `path` is a folder or device, or the disk is full.
    """
    path = Path(path)
    with parent_folder(path), _reported(path):
        temporary = _temporary_for(path)
        mode = _create(temporary)
        try:
            yield temporary
            # A writer may have put a file of its own mode there (safetensors does: owner only).
            os.chmod(temporary, mode)
            _flush_to_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
