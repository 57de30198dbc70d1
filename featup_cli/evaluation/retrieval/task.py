"""The record of the retrieval task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.core.options import INPUT, argument, like, option
from featup_cli.evaluation.task import ClassOptions, Column, PictureOptions, Task

POINTS = 10
"""Queries of each class and pair of pictures."""


@dataclass(frozen=True)
class RetrievalOptions:
    """Labelled pictures, and how many of their pixels are looked for."""

    PANEL = INPUT

    source: Path = argument("A picture, or a folder of labelled pictures as for `probe --task seg`.", metavar="SOURCE")
    split: str | None = option(None, "Folder: split to score, its name or a list file. (default: val)")
    limit: int | None = like(PictureOptions, "limit")
    points: int | None = option(None, f"Folder: queries of each class and pair of pictures. (default: {POINTS})", min=1)
    classes: str | None = like(ClassOptions, "classes")
    thin: str | None = like(ClassOptions, "thin")


TASK = Task(
    "retrieval",
    "Find points of a picture in another one, as a picture; or score matches between labelled pictures.",
    "FeatUp, section 6.9",
    "class labels",
    "featup_cli.evaluation.retrieval.scorer:run",
    RetrievalOptions,
    (
        Column("class_accuracy", "class accuracy ↑"),
        Column("thin_accuracy", "thin accuracy ↑"),
        Column("accuracy", "accuracy ↑"),
    ),
    (
        "featup eval retrieval a.jpg b.jpg --at 120,80 --methods bilinear,implicit -o retrieval.png",
        "featup eval retrieval camvid --split val --limit 10 -o run.json",
    ),
    unused=("fast",),
)
