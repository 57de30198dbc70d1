"""The record of an evaluation task; free of torch, so that help texts and tables can be made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featup_cli.core.options import INPUT, Declared, argument, declared, option


@dataclass(frozen=True)
class Column:
    """A score in tables: its key, its title (an arrow says what is better), and its digits."""

    key: str
    title: str
    digits: int = 2


@dataclass(frozen=True)
class Task:
    """One way to score upsampled features, declared beside its code and listed in `registry.py`.

    Attributes:
        name: of `evaluate` and in runs.
        about: one line, for the help of its command.
        source: paper and section.
        needs: what must be known of the pictures.
        run: `module:function`, of its options and a `source.Request`, to a run as JSON values.
        options: frozen dataclass of its own options; the one that is an argument holds the data.
        columns: scores in tables. The first is the main one, for which the difference to the baseline is shown.
        examples: command lines for the help.
        command: of `featup eval`; empty for the task's name.
        choice: value of `--task`, if the command has several tasks.
        required: names of options for all tasks that must be given here.
        unused: names of options for all tasks that have no meaning here.
        reads: names of options for methods that the task reads itself.
    """

    name: str
    about: str
    source: str
    needs: str
    run: str
    options: type[Any]
    columns: tuple[Column, ...]
    examples: tuple[str, ...] = ()
    command: str = ""
    choice: str = ""
    required: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    @property
    def data(self) -> Declared:
        """The option that holds the data."""
        (holds,) = (each for each in declared(self.options) if each.option.positional)
        return holds


@dataclass(frozen=True)
class PictureOptions:
    """Pictures of which nothing is known."""

    PANEL = INPUT

    images: tuple[Path, ...] = argument("Pictures, or folders of them.", metavar="IMAGE")
    limit: int | None = option(None, "Score this many pictures, evenly spaced. (default: all)", min=1, common=True)


@dataclass(frozen=True)
class SplitOptions:
    """A folder of pictures with something known about each."""

    PANEL = INPUT

    data: Path = argument(
        "Folder with SPLIT.txt lists of `picture label` lines, or images/SPLIT and labels/SPLIT (depth: depth/SPLIT)."
    )
    split: str = option("val", "Split to score: its name, or a list file.", common=True)


@dataclass(frozen=True)
class ClassOptions:
    """What class labels mean."""

    PANEL = INPUT

    classes: str | None = option(
        None,
        "Labels: names with commas between them (ground,box), or a JSON file with `classes`, `void_id` and `thin`. "
        "(default: the folder's classes.json)",
        metavar="NAMES|FILE",
        common=True,
    )
    thin: str | None = option(None, "Labels: comma-separated names of thin classes. (default: those of the JSON file)")
