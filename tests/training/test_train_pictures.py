from __future__ import annotations

from pathlib import Path

import pytest

from featup_cli.core.errors import InputError
from featup_cli.training.pictures import choose_heldout, find_pictures, split_samples


def test_pictures_are_found_below_all_folders_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "a/deep/er/y.PNG", "a/notes.txt", "a/._x.jpg", "b/x.jpg", "a/page.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.jpg").mkdir()
    found = find_pictures([tmp_path / "a", tmp_path / "b"])
    assert [file.name for file in found] == ["deep/er/y.PNG", "x.jpg", "x.jpg"]
    assert found[-1].path == tmp_path / "b" / "x.jpg"


def test_a_missing_folder_and_one_without_pictures_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_pictures([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no pictures below"):
        find_pictures([tmp_path])


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (8, 4), (40, 4), (100, 5), (2000, 40)])
def test_the_heldout_share_has_limits(count: int, expected: int) -> None:
    assert len(choose_heldout([f"{i}.jpg" for i in range(count)], 0.05)) == expected


def test_the_split_depends_on_names_only_not_on_their_order() -> None:
    names = [f"{i}.jpg" for i in range(50)]
    chosen = {names[i] for i in choose_heldout(names, 0.2)}
    reverse = names[::-1]
    assert {reverse[i] for i in choose_heldout(reverse, 0.2)} == chosen


def test_copies_of_a_picture_count_once_and_are_never_on_both_sides() -> None:
    pictures = [(f"{i}.jpg", [f"{i}-0", f"{i}-1"]) for i in range(6)]
    copies = [(f"copy{i}.jpg", keys) for i, (_, keys) in enumerate(pictures)]
    trained, heldout = split_samples(pictures + copies, 0.05)
    assert sorted(trained + heldout) == sorted(key for _, keys in pictures for key in keys)
    assert {key[0] for key in trained}.isdisjoint(key[0] for key in heldout)
    with pytest.raises(InputError, match="at least 2 different"):
        split_samples([("a.jpg", ["0"]), ("b.jpg", ["0"])], 0.05)
