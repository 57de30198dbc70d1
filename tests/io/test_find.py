"""Files of a folder by suffix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featup_cli.core.errors import InputError
from featup_cli.pictures.find import find_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.webp", "sub/.thumbs/d.jpg", "skipped/e.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "folder.jpg").mkdir()
    return tmp_path / "in"


def test_pictures_are_found_by_suffix_and_hidden_ones_are_not(folder: Path) -> None:
    assert find_files(folder) == ["a.PNG", "b.jpg"]
    assert find_files(str(folder), recursive=True) == ["a.PNG", "b.jpg", "skipped/e.jpg", "sub/c.webp"]
    assert find_files(folder, recursive=True, skip=os.path.realpath(folder / "skipped"))[2:] == ["sub/c.webp"]
    assert find_files(folder, (".txt",), recursive=True) == ["notes.txt"]


def test_links_are_followed_but_never_in_circles(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "f.jpg").touch()
    (folder / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(folder)
    (folder / "gone.jpg").symlink_to(tmp_path / "missing")
    os.mkfifo(folder / "pipe.jpg")
    assert find_files(folder, recursive=True) == [
        "a.PNG", "b.jpg", "gone.jpg", "linked/f.jpg", "skipped/e.jpg", "sub/c.webp"
    ]  # fmt: skip


def test_a_folder_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: can't be read \\(No such file or directory\\); check its permissions"):
        find_files(tmp_path / "none")
    told: list[str] = []
    assert find_files(tmp_path / "none", failed=lambda path, reason: told.append(path)) == []
    assert told == [str(tmp_path / "none")]
