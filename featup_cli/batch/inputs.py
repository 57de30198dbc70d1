"""Find the input pictures: files, folders, glob patterns, lists of paths."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from featup_cli.batch.records import Item, Record
from featup_cli.core.errors import InputError, UsageError
from featup_cli.io.files import is_missing
from featup_cli.pictures.find import find_files
from featup_cli.pictures.formats import picture_suffixes

LIST_SUFFIX = ".txt"
STANDARD_INPUT = "-"


class Source(NamedTuple):
    """A picture, and its path below the folder, pattern or list that it came from; `named`: given by its own name."""

    path: str
    name: str
    named: bool = False


@dataclass
class Inputs:
    """All pictures in a stable order, a record for each argument without pictures, and the folders searched."""

    sources: list[Source] = field(default_factory=list)
    problems: list[Record] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def add_problem(self, path: str, reason: str) -> None:
        """Note that a path gives no pictures."""
        self.problems.append(Record(Item(path, ""), "failed", error=f"{path}: {reason}"))

    def add_list(self, name: str, content: bytes, base: str) -> None:
        """Add the pictures of a list; relative paths are below `base`."""
        if b"\0" in content:
            self.add_problem(name, "contains null bytes, so it is not a list of paths")
        else:
            self.sources += _listed(content, base)


def refuse_address(path: str | Path) -> None:
    """Raise UsageError for URLs such as `s3://...`, which would otherwise be read as a folder name."""
    # A Path has one slash left; names of Windows drives have one letter.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise UsageError(f"{path}: is not a path; mount the storage as a folder (mount-s3, gcsfuse, sshfs)")


def refuse_missing(arguments: Sequence[str]) -> None:
    """Raise InputError if the only argument is a picture that isn't there: the run itself would load much first."""
    if len(arguments) != 1:
        return
    path = arguments[0]
    refuse_address(path)
    by_name = path not in ("", STANDARD_INPUT) and not path.lower().endswith(LIST_SUFFIX) and not glob.has_magic(path)
    if by_name and is_missing(path):
        raise InputError(f"{path}: no such file")


def find_inputs(arguments: Iterable[str | Path], recursive: bool = False, skip: Path | str | None = None) -> Inputs:
    """Find the pictures for the arguments of `featup upsample`, each once, in a stable order.

    An argument is a folder (its pictures, sorted by path; with `recursive` those of its subfolders too, whether links
    or not), a list `*.txt` or `-` for standard input (one path a line, in the order of the list), a glob pattern that
    names no file (`**` for any depth; sorted), or a picture. In folders, hidden files and files without the suffix
    of a picture are skipped; a file that is named itself never is.

    Args:
        arguments: as given.
        recursive: search subfolders.
        skip: a folder that is not searched, as its files are results.
    """
    found = Inputs()
    search = _Search(recursive, os.path.realpath(skip) if skip is not None else None, found)
    for argument in map(str, arguments):
        if not argument:
            found.add_problem("''", "is an empty argument; give a picture, folder, pattern or list")
        elif argument == STANDARD_INPUT:
            found.add_list("standard input", sys.stdin.buffer.read(), "")
        elif os.path.isdir(argument):
            found.sources += search.folder(argument)
        elif argument.lower().endswith(LIST_SUFFIX):
            try:
                found.add_list(argument, Path(argument).read_bytes(), os.path.dirname(argument))
            except OSError as error:
                found.add_problem(argument, f"can't be read ({error.strerror or error}); give a list of paths")
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            found.sources += search.pattern(argument)
        else:
            found.sources.append(Source(argument, os.path.basename(argument), named=True))
    unique = {os.path.abspath(source.path): source for source in reversed(found.sources)}
    if len(unique) < len(found.sources):
        found.sources = list(reversed(unique.values()))
    return found


@dataclass
class _Search:
    recursive: bool
    skip: str | None
    found: Inputs

    def folder(self, folder: str) -> list[Source]:
        """The pictures in a folder; a problem is noted if there is none."""
        self.found.folders.append(folder)
        before = len(self.found.problems)
        names = find_files(folder, recursive=self.recursive, skip=self.skip, failed=self.found.add_problem)
        if not names and len(self.found.problems) == before:
            more = "" if self.recursive else "; --recursive searches its subfolders too"
            self.found.add_problem(folder, f"holds no pictures{more}")
        return [Source(os.path.join(folder, name), name) for name in names]

    def pattern(self, pattern: str) -> list[Source]:
        """The matching pictures, with names relative to the part of the pattern without wildcards."""
        parts = Path(pattern).parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base = os.path.join(*parts[:fixed]) if fixed else "."
        suffixes = picture_suffixes()
        matches = [p for p in sorted(glob.iglob(pattern, recursive=True)) if os.path.splitext(p)[1].lower() in suffixes]
        sources = [Source(path, os.path.relpath(path, base)) for path in matches if not os.path.isdir(path)]
        if not sources:
            self.found.add_problem(pattern, "matches no picture")
        return sources


def _listed(content: bytes, base: str) -> list[Source]:
    """The pictures of a list; relative paths are below `base`."""
    lines = [os.fsdecode(line.rstrip(b"\r")) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    names = [os.path.normpath(line) for line in lines if line.strip() and not line.startswith("#")]
    # Names keep a relative path as it is. Paths from elsewhere are named below the folder that they share.
    outside = [os.path.abspath(os.path.join(base, name)) for name in names if _leaves(name)]
    shared = os.path.commonpath([os.path.dirname(path) for path in outside]) if outside else ""
    sources = []
    for name in names:
        path = os.path.join(base, name)
        sources.append(Source(path, os.path.relpath(path, shared) if _leaves(name) else name))
    return sources


def _leaves(path: str) -> bool:
    """Whether a relative path leaves its folder."""
    return os.path.isabs(path) or path.split(os.sep, 1)[0] == os.pardir
