"""The records of the linear probes: class labels, and depth."""

from __future__ import annotations

from dataclasses import dataclass

from featup_cli.core.options import RUN, like, option
from featup_cli.evaluation.task import ClassOptions, Column, PictureOptions, SplitOptions, Task

_ABOUT = "Train a linear probe on low-resolution features, freeze it, apply it to the features of every method."
_SOURCE = "FeatUp, section 4.2"
_COMMAND = "probe"


@dataclass(frozen=True)
class ProbeOptions(SplitOptions):
    """Pictures to train and to score on, and how many probes are trained."""

    train_split: str = option("train", "Split to train the probe on.", common=True)
    limit: int | None = like(PictureOptions, "limit")
    train_limit: int | None = option(None, "Train on this many pictures, evenly spaced. (default: all)", min=1)
    seeds: int = option(
        3,
        "Further probes, each trained on a bootstrap draw of the training pictures: the training is convex, "
        "so its start changes nothing.",
        min=0,
        panel=RUN,
    )


@dataclass(frozen=True)
class SegmentationOptions(ProbeOptions):
    """The same, and what class labels mean."""

    classes: str | None = like(ClassOptions, "classes")
    thin: str | None = like(ClassOptions, "thin")


@dataclass(frozen=True)
class DepthOptions(ProbeOptions):
    """The same, and the unit of the depths."""

    depth_scale: float | None = option(
        None, "depth: divide whole numbers (PNG) by this, e.g. 1000 for millimetres. (default: 1)", min=1e-9
    )


SEGMENTATION = Task(
    "probe-seg",
    _ABOUT,
    _SOURCE,
    "class labels",
    "featup_cli.evaluation.probe.segmentation:run",
    SegmentationOptions,
    (
        Column("miou", "mIoU ↑"),
        Column("thin_miou", "thin mIoU ↑"),
        Column("band_miou", "band mIoU ↑"),
        Column("accuracy", "accuracy ↑"),
    ),
    (
        "featup eval probe --task seg DATA -o run.json",
        "featup eval probe --task seg camvid --split val --methods bilinear,implicit --limit 12 --resize 352x480",
    ),
    _COMMAND,
    "seg",
)
DEPTH = Task(
    "probe-depth",
    _ABOUT,
    _SOURCE,
    "a number for each pixel",
    "featup_cli.evaluation.probe.depth:run",
    DepthOptions,
    (Column("rmse", "RMSE ↓", 3), Column("delta", "δ < 1.25 % ↑")),
    ("featup eval probe --task depth DATA --depth-scale 1000",),
    _COMMAND,
    "depth",
)
