from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featup_cli.core.errors import InputError, UsageError
from featup_cli.evaluation.data import (
    Classes,
    DataError,
    check_pairs,
    find_classes,
    find_pairs,
    load_classes,
    read_class_labels,
    spread_evenly,
)
from featup_cli.pictures.labels import read_numbers

CLASSES = Classes(("a", "b"), (9,))


def save_labels(path: Path, rows: list[list[int]]) -> Path:
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(path)
    return path


def test_split_folders_and_lists_give_the_same_pairs(seg_data: Path) -> None:
    pairs = find_pairs(seg_data, "val")
    assert [(p.picture.name, p.label.parent.name) for p in pairs] == [("p3.png", "val"), ("p4.png", "val")]
    (seg_data / "two.txt").write_text("images/val/p3.png labels/val/p3.png\nimages/val/p4.png labels/val/p4.png\n")
    (seg_data / "stems.txt").write_text("val/p3\nval/p4\n")
    assert find_pairs(seg_data, "two") == find_pairs(seg_data, "stems") == pairs
    assert find_pairs(seg_data, str(seg_data / "two.txt")) == pairs


@pytest.mark.parametrize(("kind", "other"), [("images", "label"), ("labels", "picture")])
def test_a_missing_partner_is_named(seg_data: Path, kind: str, other: str) -> None:
    left = seg_data / ("labels" if kind == "images" else "images") / "val" / "p3.png"
    left.unlink()
    with pytest.raises(InputError, match=f"{kind}/val/p3.png: has no {other}"):
        find_pairs(seg_data, "val")


def test_an_unknown_split_says_what_was_looked_for(seg_data: Path) -> None:
    with pytest.raises(UsageError, match=r"test\.txt"):
        find_pairs(seg_data, "test")


def test_void_is_marked_and_ids_are_kept(tmp_path: Path) -> None:
    labels = read_class_labels(save_labels(tmp_path / "l.png", [[0, 1, 9]]), CLASSES)
    assert labels.tolist() == [[0, 1, -1]]


@pytest.mark.parametrize(
    ("rows", "says"), [([[0, 7, 9]], "class id 7"), ([[9, 9]], "no valid pixel")], ids=["unknown id", "all void"]
)
def test_labels_that_would_spoil_the_mean_are_refused(tmp_path: Path, rows: list[list[int]], says: str) -> None:
    with pytest.raises(InputError, match=rf"l\.png: .*{says}"):
        read_class_labels(save_labels(tmp_path / "l.png", rows), CLASSES)


def test_colour_pictures_are_no_labels(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "l.png")
    with pytest.raises(InputError, match="RGB"):
        read_numbers(tmp_path / "l.png")


def test_sixteen_bits_and_arrays_keep_their_values(tmp_path: Path) -> None:
    values = np.array([[0, 300], [65535, 7]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "d.png")
    np.save(tmp_path / "d.npy", values)
    for name in ("d.png", "d.npy"):
        assert read_numbers(tmp_path / name).tolist() == values.tolist()


def test_all_problems_are_found_and_each_is_one_line(seg_data: Path) -> None:
    save_labels(seg_data / "labels" / "val" / "p3.png", [[0, 1]])
    (seg_data / "images" / "val" / "p4.png").write_text("no picture")
    read = partial(read_class_labels, classes=load_classes(seg_data / "classes.json"))
    with pytest.raises(DataError) as caught:
        check_pairs([*find_pairs(seg_data, "train"), *find_pairs(seg_data, "val")], read)
    first, second = caught.value.problems
    assert "p3.png: 1x2 pixels, but its picture p3.png has 64x96" in first
    assert "p4.png" in second


def test_class_files(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classes": ["a", "b", "c"], "void_id": [7, 8], "thin": ["c"]}))
    assert load_classes(path) == Classes(("a", "b", "c"), (7, 8), (2,))
    assert load_classes(path, "b").thin == (1,)
    with pytest.raises(UsageError, match="'d' is none of the classes"):
        load_classes(path, "d")
    path.write_text(json.dumps({"classes": ["a", "b"], "void_id": 1}))
    with pytest.raises(InputError, match="void"):
        load_classes(path)


def test_classes_are_those_given_or_those_of_the_folder(seg_data: Path) -> None:
    assert find_classes(seg_data, None) == load_classes(seg_data / "classes.json")
    assert find_classes(seg_data, "dark, bright", "bright") == Classes(("dark", "bright"), (255,), (1,))
    (seg_data / "a,b").write_text(json.dumps({"classes": ["x", "y"]}))
    assert find_classes(seg_data, seg_data / "a,b").names == ("x", "y")
    for given in ("dark,,bright", "dark,dark"):
        with pytest.raises(UsageError, match=f"--classes {given}: a name is empty, or given twice"):
            find_classes(seg_data, given)
    with pytest.raises(UsageError, match="'pole' is none of the classes: dark, bright"):
        find_classes(seg_data, "dark,bright", "pole")
    with pytest.raises(InputError, match="dark: no such file; give --classes with a JSON file, or names"):
        find_classes(seg_data, "dark")
    (seg_data / "classes.json").unlink()
    with pytest.raises(InputError, match=r"has no classes\.json, which names the classes; give --classes with"):
        find_classes(seg_data, None)


def test_pictures_are_taken_evenly() -> None:
    assert spread_evenly(list(range(10)), 3) == [0, 3, 6]
    assert spread_evenly([1, 2], 5) == [1, 2]


def test_ids_of_palette_pictures_are_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "l.png")
    assert torch.equal(read_class_labels(tmp_path / "l.png", CLASSES), torch.tensor([[0, 1]]))


def test_lists_that_are_no_text_are_named(seg_data: Path) -> None:
    (seg_data / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bad\.txt: can't be read as a list"):
        find_pairs(seg_data, "bad")
