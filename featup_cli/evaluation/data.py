"""Pictures with labels: which belong together, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.errors import FeatUpError, InputError, UsageError
from featup_cli.core.shapes import describe_size
from featup_cli.pictures.find import find_files
from featup_cli.pictures.formats import LABEL_SUFFIXES, picture_suffixes
from featup_cli.pictures.labels import read_numbers
from featup_cli.pictures.read import load_image

T = TypeVar("T")
IGNORE = -1
"""Class id of void pixels."""
DEFAULT_VOID = 255


@dataclass(frozen=True)
class Item:
    """A picture to score; with some tasks, files belong to it."""

    picture: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All that its scores depend on."""
        return (self.picture,)


@dataclass(frozen=True)
class Pair(Item):
    """A picture and the file of its labels."""

    label: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Both files."""
        return self.picture, self.label


@dataclass(frozen=True)
class Classes:
    """What label values mean: classes 0, 1, ... by `names`, ids that are `void`, and indices of `thin` classes."""

    names: tuple[str, ...]
    void: tuple[int, ...]
    thin: tuple[int, ...] = ()

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        return {"names": list(self.names), "void": list(self.void), "thin": [self.names[i] for i in self.thin]}


class DataError(InputError):
    """Files that can't be used; `problems` has a line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def _files(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in (folder / name for name in find_files(folder, suffixes)):
        if path.stem in found:
            raise InputError(f"{path}: {found[path.stem].name} has the same name; rename one")
        found[path.stem] = path
    return found


def find_images(paths: Sequence[Path], limit: int | None = None) -> list[Item]:
    """The pictures given, and those in the folders given, sorted; `limit` of them.

    Raises:
        InputError: no such file, or a folder without pictures.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        inside = [path / name for name in find_files(path)] if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: holds no pictures")
        found += inside
    return spread_evenly([Item(path) for path in found], limit)


def name_of(paths: Sequence[Path]) -> str:
    """The name of the data in records: that of the folder if there is one, else the number of files."""
    return paths[0].resolve().name if len(paths) == 1 else f"{len(paths)} files"


def find_pairs(
    data: Path,
    split: str,
    limit: int | None = None,
    label_folder: str = "labels",
    suffixes: Sequence[str] = LABEL_SUFFIXES,
) -> list[Pair]:
    """Pictures of a split with their label files; `limit` of them, evenly spaced.

    In this order: `split` is a list file; DATA/SPLIT.txt is one; DATA/images/SPLIT and DATA/labels/SPLIT hold files of
    the same stems. A line of a list is `picture label`, relative to DATA, or a stem in DATA/images and DATA/labels.

    Raises:
        UsageError: DATA has no such split.
        InputError: no such folder, a picture without label, a label without picture, or a list that can't be read; the
            message names it.
    """
    check_folder(data)
    for list_file in (Path(split), data / f"{split}.txt"):
        if list_file.is_file():
            pairs = list(_read_pairs(list_file, data, label_folder, suffixes))
            break
    else:
        folders = data / "images" / split, data / label_folder / split
        if not all(folder.is_dir() for folder in folders):
            raise UsageError(
                f"{data}: no split {split!r}: expected the list {split}.txt, or the folders images/{split} and "
                f"{label_folder}/{split}; a list elsewhere can be named instead of the split"
            )
        pictures, labels = _files(folders[0], picture_suffixes()), _files(folders[1], suffixes)
        for stem in sorted(pictures.keys() ^ labels.keys()):
            if stem in pictures:
                raise InputError(f"{pictures[stem]}: has no label of that name in {folders[1]}")
            raise InputError(f"{labels[stem]}: has no picture of that name in {folders[0]}")
        pairs = [Pair(pictures[stem], labels[stem]) for stem in sorted(pictures)]
    if not pairs:
        raise InputError(f"{data}: split {split!r} is empty")
    return spread_evenly(pairs, limit)


def read_list(path: Path, form: str) -> list[tuple[str, list[str]]]:
    """Words of each line of a text file that has any, and where it stands: `path:number`.

    Args:
        form: that lines should have, for messages.
    Raises:
        InputError: the file can't be read.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a list of `{form}` lines") from None
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: can't be read as a list of `{form}` lines") from None
    return [(f"{path}:{number}", line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def _read_pairs(list_file: Path, data: Path, label_folder: str, suffixes: Sequence[str]) -> Iterator[Pair]:
    of_pictures = sorted(picture_suffixes())
    for place, words in read_list(list_file, "picture label"):
        if len(words) == 2:
            yield Pair(data / words[0], data / words[1])
        elif len(words) == 1:
            path = Path(words[0])
            stem = path.with_suffix("") if path.suffix.lower() in of_pictures else path
            yield Pair(
                _with_suffix(data / "images" / stem, of_pictures), _with_suffix(data / label_folder / stem, suffixes)
            )
        else:
            raise InputError(f"{place}: expected `picture label`, without spaces in their names")


def _with_suffix(stem: Path, suffixes: Sequence[str]) -> Path:
    """The file of that stem with one of the suffixes; the stem itself if there is none."""
    candidates = (stem.with_name(stem.name + suffix) for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), stem)


def spread_evenly(items: Sequence[T], count: int | None) -> list[T]:
    """`count` of the items, evenly spaced; all of them for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def check_folder(data: Path) -> None:
    """Raise InputError unless `data` is a folder with something in it."""
    if not data.exists():
        raise InputError(f"{data}: no such folder; give that of a data set")
    if not data.is_dir():
        raise InputError(f"{data}: is a file; give the folder of a data set")
    if not any(data.iterdir()):
        raise InputError(f"{data}: is an empty folder; give that of a data set")


def find_classes(data: Path, given: Path | str | None, thin: str | None = None) -> Classes:
    """Classes of the data set in a folder: those given, a JSON file or comma-separated names, or its classes.json.

    Raises:
        InputError, UsageError: the folder has nothing in it, there are no classes, or as `load_classes`.
    """
    check_folder(data)
    path = data / "classes.json" if given is None else Path(given)
    names = [name.strip() for name in str(given).split(",")]
    if given is not None and len(names) > 1 and not path.exists():
        if "" in names or len(set(names)) < len(names):
            raise UsageError(f"--classes {given}: a name is empty, or given twice")
        return _classes({"classes": names}, thin, f"--classes {given}")
    if not path.exists():
        said = f"{data}: has no classes.json, which names the classes" if given is None else f"{path}: no such file"
        raise InputError(f"{said}; give --classes with a JSON file, or names with commas between them: ground,box")
    return load_classes(path, thin)


def load_classes(path: Path, thin: str | None = None) -> Classes:
    """Classes of a JSON file: {"classes": [names], "void_id": id or ids, "thin": [names]}; void is 255 by default.

    Args:
        path: of the file.
        thin: comma-separated names that replace the file's own.
    Raises:
        InputError: a file that can't be read, or of another form; UsageError: a thin class that is none.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        content = None
    return _classes(content, thin, str(path))


def _classes(content: Any, thin: str | None, origin: str) -> Classes:
    """The classes of a file's content; `origin` is for messages."""
    try:
        names = tuple(str(name) for name in content["classes"])
        void = content.get("void_id", DEFAULT_VOID)
        void = tuple(int(v) for v in (void if isinstance(void, list) else [void]))
        chosen = content.get("thin", []) if thin is None else thin.split(",")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f'{origin}: expected {{"classes": [names], "void_id": 255, "thin": [names]}}') from None
    for name in chosen:
        if name not in names:
            raise UsageError(f"thin class {name!r} is none of the classes: {', '.join(names)}")
    if len(names) < 2 or set(void) & set(range(len(names))):
        raise InputError(f"{origin}: needs at least two classes, and void ids that are no class")
    return Classes(names, void, tuple(names.index(name) for name in chosen))


def read_array(path: Path, key: str, form: str, any_name: bool = False) -> np.ndarray:
    """The array `key` of a .npz.

    Args:
        form: shape that is expected of it, for messages.
        any_name: if there is none of that name, take the only one that there is.
    Raises:
        InputError: no such file, or another form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            array: np.ndarray = file[file.files[0] if any_name and key not in file and len(file.files) == 1 else key]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError):
        raise InputError(f"{path}: expected a .npz with an array `{key}` {form}") from None
    return array


def read_class_labels(path: Path, classes: Classes) -> Tensor:
    """Class ids int64 [H, W]; void is `IGNORE`.

    Raises:
        InputError: an id that is neither class nor void, no valid pixel, or a file that can't be read.
    """
    numbers = read_numbers(path)
    if numbers.dtype.kind not in "iub":
        raise InputError(f"{path}: class ids must be whole numbers, not {numbers.dtype}")
    ids = torch.from_numpy(numbers.astype(np.int64))
    void = torch.isin(ids, torch.tensor(classes.void))
    unknown = ids[~void & ((ids < 0) | (ids >= len(classes.names)))]
    if len(unknown):
        listed = ", ".join(str(v) for v in unknown.unique().tolist()[:5])
        raise InputError(
            f"{path}: class id {listed} is neither one of the classes 0 to {len(classes.names) - 1} nor void "
            f"({', '.join(str(v) for v in classes.void)})"
        )
    if bool(void.all()):
        raise InputError(f"{path}: has no valid pixel, all are void; leave it out of the list")
    return ids.masked_fill(void, IGNORE)


def check_pairs(pairs: Sequence[Pair], read: Callable[[Path], Tensor]) -> None:
    """Read all pairs, before any long work starts.

    Args:
        read: takes a label file, returns labels [..., H, W].
    Raises:
        DataError: some of them can't be read, or labels and picture differ in size.
    """
    problems = []
    for pair in pairs:
        try:
            (height, width), size = read(pair.label).shape[-2:], load_image(pair.picture).size
            if (height, width) != size:
                has = f"its picture {pair.picture.name} has {describe_size(size)}"
                raise InputError(f"{pair.label}: {height}x{width} pixels, but {has}")
        except FeatUpError as error:
            problems.append(str(error))
    if problems:
        raise DataError(problems)
