"""The record of the boundary task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.core.options import argument, like
from featup_cli.evaluation.task import Column, PictureOptions, SplitOptions, Task


@dataclass(frozen=True)
class BoundaryOptions(SplitOptions):
    """Pictures and the boundaries that people drew in them."""

    data: Path = argument(
        "Folder with SPLIT.txt lists of `picture boundaries.npz` lines, or images/SPLIT and boundaries/SPLIT."
    )
    limit: int | None = like(PictureOptions, "limit")


TASK = Task(
    "boundary",
    "Precision, recall and F of feature edges against the boundaries of several annotators (BSDS layout).",
    "Arbelaez et al. (2011)",
    "boundaries that people drew",
    "featup_cli.evaluation.boundary.scorer:run",
    BoundaryOptions,
    (
        Column("ods", "F (ODS) ↑"),
        Column("ois", "F (OIS) ↑"),
        Column("precision", "precision"),
        Column("recall", "recall"),
    ),
    ("featup eval boundary bsds --split val --methods bilinear,jbu --limit 20 -o run.json",),
    unused=("fast",),
)
