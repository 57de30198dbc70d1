"""The record of the consistency task."""

from __future__ import annotations

from featup_cli.evaluation.task import Column, PictureOptions, Task

TASK = Task(
    "consistency",
    "Share of the variance of unseen jittered views that each method's features explain; needs no labels.",
    "FeatUp, section 3",
    "no labels",
    "featup_cli.evaluation.consistency.scorer:run",
    PictureOptions,
    (Column("explained", "explained % ↑"),),
    (
        "featup eval consistency photos/",
        "featup eval consistency a.jpg b.jpg --methods bilinear,implicit -o run.json",
    ),
    reads=("preset", "settings"),
)
