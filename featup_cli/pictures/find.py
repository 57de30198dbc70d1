"""Pictures in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from featup_cli.core.errors import InputError
from featup_cli.pictures.formats import picture_suffixes


def _refuse(folder: str, reason: str) -> None:
    raise InputError(f"{folder}: {reason}")


def find_files(
    folder: Path | str,
    suffixes: Collection[str] | None = None,
    *,
    recursive: bool = False,
    skip: str | None = None,
    failed: Callable[[str, str], None] = _refuse,
) -> list[str]:
    """Files in a folder by suffix: paths below it with `/`, sorted as text; hidden files and folders are left out.

    Links are followed, unless to a folder that is being searched. A link that leads nowhere is kept if its name fits.

    Args:
        folder: to search.
        suffixes: in lower case; None for those of pictures.
        recursive: search subfolders too.
        skip: real path of a folder that is not searched.
        failed: told of each folder that can't be read, and why.
    Raises:
        InputError: a folder can't be read, unless `failed` is given.
    """
    wanted = picture_suffixes() if suffixes is None else suffixes

    def below(here: str, prefix: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str]:
        subfolders = []
        try:
            status = os.stat(here)
            mark = status.st_dev, status.st_ino
            if mark in parents or os.path.realpath(here) == skip:
                return
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        subfolders.append(entry.name)
                    elif os.path.splitext(entry.name)[1].lower() in wanted and (entry.is_file() or entry.is_symlink()):
                        yield prefix + entry.name
        except OSError as error:
            failed(here, f"can't be read ({error.strerror or error}); check its permissions")
            return
        for name in subfolders if recursive else ():
            yield from below(os.path.join(here, name), f"{prefix}{name}/", (*parents, mark))

    return sorted(below(os.fspath(folder), "", ()))
