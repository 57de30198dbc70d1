"""Which pictures are meant, and what their outputs are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featup_cli.batch.inputs import find_inputs
from featup_cli.batch.names import name_outputs
from featup_cli.core.errors import UsageError
from featup_cli.pictures.formats import picture_suffixes


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files: which ones count is decided by name alone."""
    monkeypatch.chdir(tmp_path)
    names = (
        "a/z.jpg", "a/b.JPEG", "a/sub/x.png", "a/sub/deep/y.webp", "a/notes.txt", "a/.hidden.jpg", "a/.git/k.png",
        "a/f.safetensors", "a/f.h5", "c/x.png",
    )  # fmt: skip
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def targets(*arguments: object, recursive: bool = False, model: bool = False) -> dict[str, str]:
    """Outputs of the arguments: picture to name below the output folder."""
    items = name_outputs(find_inputs(map(str, arguments), recursive), "out", model=model)
    return {item.picture: os.path.relpath(item.target, "out") for item in items}


def test_formats_that_pillow_only_knows_by_name_are_no_pictures() -> None:
    assert {".jpg", ".png", ".tif", ".webp"} <= picture_suffixes()
    assert not {".eps", ".h5", ".hdf", ".grib", ".mpg", ".txt", ".safetensors"} & picture_suffixes()


def test_a_folder_gives_its_pictures_sorted_without_hidden_ones(tree: Path) -> None:
    assert targets("a") == {"a/b.JPEG": "b.safetensors", "a/z.jpg": "z.safetensors"}
    assert [*targets("a", recursive=True).values()] == [
        "b.safetensors", "sub/deep/y.safetensors", "sub/x.safetensors", "z.safetensors"
    ]  # fmt: skip


def test_a_named_file_is_never_left_out(tree: Path) -> None:
    assert targets("a/.hidden.jpg", "a/f.h5", "none.jpg") == {
        "a/.hidden.jpg": ".hidden.safetensors", "a/f.h5": "f.safetensors", "none.jpg": "none.safetensors"
    }  # fmt: skip


def test_a_pattern_keeps_what_lies_below_its_fixed_part(tree: Path) -> None:
    assert targets("a/*.jpg") == {"a/z.jpg": "z.safetensors"}
    assert [*targets("a/**/*.*").values()] == [
        "b.safetensors", "sub/deep/y.safetensors", "sub/x.safetensors", "z.safetensors"
    ]  # fmt: skip
    Path("odd[1].jpg").touch()
    assert targets("odd[1].jpg") == {"odd[1].jpg": "odd[1].safetensors"}


def test_a_list_is_relative_to_itself_and_keeps_its_order(tree: Path) -> None:
    Path("a/notes.txt").write_bytes(b"\xef\xbb\xbf# pictures\r\nz.jpg\r\n\r\nsub/x.png\n  \nwith space .jpg\n")
    assert targets("a/notes.txt") == {
        "a/z.jpg": "z.safetensors", "a/sub/x.png": "sub/x.safetensors", "a/with space .jpg": "with space .safetensors"
    }  # fmt: skip


def test_paths_of_a_list_from_elsewhere_are_named_below_the_folder_that_they_share(tree: Path) -> None:
    Path("a/notes.txt").write_text(f"../c/x.png\n{tree}/a/sub/x.png\n")
    assert [*targets("a/notes.txt").values()] == ["c/x.safetensors", "a/sub/x.safetensors"]


def test_each_picture_comes_once(tree: Path) -> None:
    assert [*targets("a/z.jpg", "a", f"{tree}/a/b.JPEG")] == ["a/z.jpg", "a/b.JPEG"]


def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    os.symlink(tree / "c", "a/link")
    os.symlink(tree / "a", "a/sub/circle")
    os.symlink("nowhere", "a/dangling.png")
    names = [*targets("a", recursive=True)]
    assert "a/link/x.png" in names
    assert "a/dangling.png" in names
    assert not [name for name in names if "circle" in name]


def test_outputs_in_the_searched_folder_are_not_searched(tree: Path) -> None:
    Path("a/out").mkdir()
    Path("a/out/z.png").touch()
    assert "a/out/z.png" in [source.path for source in find_inputs(["a"], recursive=True).sources]
    assert "a/out/z.png" not in [source.path for source in find_inputs(["a"], recursive=True, skip="a/out").sources]


def test_what_gives_no_picture_is_told_and_the_others_go_on(tree: Path) -> None:
    Path("empty/sub").mkdir(parents=True)
    found = find_inputs(["empty", "c", "none.txt", "c/*.gif"])
    assert [source.path for source in found.sources] == ["c/x.png"]
    assert [record.item.picture for record in found.problems] == ["empty", "none.txt", "c/*.gif"]
    assert "--recursive" in found.problems[0].error


def test_pictures_that_differ_in_the_suffix_alone_keep_it(tree: Path) -> None:
    for name in ("x.jpg", "x.jpg.png", "other.png"):
        Path("c", name).touch()
    assert targets("c") == {
        "c/other.png": "other.safetensors", "c/x.jpg": "x.jpg.safetensors", "c/x.png": "x.png.safetensors",
        "c/x.jpg.png": "x.jpg.png.safetensors",
    }  # fmt: skip


def test_a_model_file_never_is_the_feature_file_of_another_picture(tree: Path) -> None:
    Path("c/x.model.png").touch()
    assert [*targets("c").values()] == ["x.model.safetensors", "x.safetensors"]
    assert [*targets("c", model=True).values()] == ["x.model.png.safetensors", "x.png.safetensors"]


def test_pictures_of_one_name_in_two_folders_are_refused_with_a_way_out(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"a/sub/x\.png and c/x\.png would both.*--recursive"):
        targets("a/sub", "c")


def test_results_never_replace_pictures(tree: Path) -> None:
    with pytest.raises(UsageError, match="would be overwritten"):
        name_outputs(find_inputs(["c/x.png"]), "c")
    with pytest.raises(UsageError, match="searched for pictures"):
        name_outputs(find_inputs(["c"]), "c/../c")
    assert name_outputs(find_inputs(["c"]), "c", picture=False)[0].target == "c/x.safetensors"


def test_a_hundred_thousand_paths_are_named_in_one_pass(tmp_path: Path) -> None:
    count = 100_000  # anything quadratic would take hours
    (tmp_path / "list.txt").write_text("".join(f"{i % 1000}/{i}.jpg\n" for i in range(count)))
    assert len(targets(tmp_path / "list.txt")) == count
