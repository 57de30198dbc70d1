"""The record of the task on class activation maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.core.options import INPUT, METHOD, like, option
from featup_cli.evaluation.task import Column, PictureOptions, Task


@dataclass(frozen=True)
class CamOptions:
    """Pictures, the class to explain, and the blur of what is hidden."""

    images: tuple[Path, ...] = like(PictureOptions, "images")
    labels: Path | None = option(
        None,
        "List of `picture class` lines; leave out pictures that the network classifies otherwise, as the paper does.",
        panel=INPUT,
        common=True,
    )
    limit: int | None = like(PictureOptions, "limit")
    target: int | None = option(
        None, "Explain this class. (default: the one that the network predicts)", "--class", min=0, panel=METHOD
    )
    blur: float = option(
        0.05,
        "Blur of the hidden half: standard deviation as a share of the short side.",
        min=0.001,
        max=1.0,
        panel=METHOD,
    )


TASK = Task(
    "cam",
    "Average Drop and Average Increase of a classifier's class activation maps; needs no labels.",
    "FeatUp, sections 4.3 and 6.10",
    "no labels, but a classifier",
    "featup_cli.evaluation.cam.scorer:run",
    CamOptions,
    (Column("average_drop", "A.D. % ↓"), Column("average_increase", "A.I. % ↑")),
    (
        "featup eval cam photos/ --backbone mobilenetv2",
        "featup eval cam val/ --labels val.txt --backbone resnet50 --methods bilinear,jbu -o run.json",
    ),
    required=("backbone",),
    unused=("layer", "no_norm"),
)
