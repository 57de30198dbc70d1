"""Training pictures: found in folders, and split the same way every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from featup_cli.core.errors import InputError
from featup_cli.pictures.find import find_files

LEAST_HELDOUT, MOST_HELDOUT = 4, 40


@dataclass(frozen=True)
class PictureFile:
    """A file that should hold a picture; `name` is its path relative to the searched folder."""

    path: Path
    name: str


def find_pictures(folders: Iterable[Path]) -> list[PictureFile]:
    """Every file below the folders with a suffix that Pillow reads, sorted; see `find_files`.

    Raises:
        InputError: a folder is missing, or no picture is found.
    """
    folders = list(folders)
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; --images takes folders")
        # What can't be read is left out, as pictures that are damaged are.
        names = sorted(map(Path, find_files(folder, recursive=True, failed=lambda *_: None)))
        found += [PictureFile(folder / name, name.as_posix()) for name in names if (folder / name).is_file()]
    if not found:
        raise InputError(f"no pictures below {', '.join(map(str, folders))}")
    return found


def choose_heldout(names: Sequence[str], share: float) -> set[int]:
    """Choose the pictures to hold out: the same ones for the same names, whatever their order.

    Args:
        names: of the readable pictures.
        share: requested share; at least 4 and at most 40 are taken, and never more than half.
    Returns:
        Indices into `names`.
    Raises:
        InputError: fewer than two pictures.
    """
    if len(names) < 2:
        raise InputError("training needs at least 2 different readable pictures: one to train on and one to hold out")
    count = min(max(round(share * len(names)), LEAST_HELDOUT), MOST_HELDOUT, len(names) // 2)
    by_hash = sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    return set(by_hash[:count])


def split_samples(pictures: Sequence[tuple[str, list[str]]], share: float) -> tuple[list[str], list[str]]:
    """Split sample keys into training and held-out keys, by picture name.

    Copies of a picture have the same keys; they count once and stay on one side.

    Raises:
        InputError: there are not two different pictures.
    """
    by_key = {keys[0]: (name, keys) for name, keys in reversed(pictures)}
    unique = [by_key[key] for key in dict.fromkeys(keys[0] for _, keys in pictures)]
    aside = choose_heldout([name for name, _ in unique], share)
    trained = [key for i, (_, keys) in enumerate(unique) if i not in aside for key in keys]
    return trained, [key for i, (_, keys) in enumerate(unique) if i in aside for key in keys]
