"""What a path must be before anything is read from it, and how it is named to other libraries."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featup_cli.core.errors import InputError


def check_readable(path: Path, wanted: str) -> int:
    """Size in bytes of a regular file that is not empty. Pipes and devices, which may never end, are not opened.

    Args:
        path: what was given.
        wanted: what should have been, for the message: `picture files`.
    Raises:
        InputError: the file is missing, empty, a folder, a pipe or device, or can't be looked at.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be read ({reason}); check its name and permissions") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: is a folder; give {wanted}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is a pipe, socket or device; give {wanted}")
    if not status.st_size:
        raise InputError(f"{path}: is empty; give {wanted}")
    return status.st_size


def is_missing(path: Path | str) -> bool:
    """Whether there is nothing of this name, not even a broken link. Other faults are told by opening it."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    return False


@contextmanager
def unicode_name(path: Path) -> Iterator[str]:
    """The name of a file for libraries that take Unicode only; that of a descriptor if its own is other bytes.

    Raises:
        OSError: the file can't be opened.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as stream:
            yield f"/dev/fd/{stream.fileno()}"
    else:
        yield str(path)
