"""The segmentation probe: FeatUp, section 4.2, with scores per picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.progress import Progress
from featup_cli.evaluation.bootstrap import Scores
from featup_cli.evaluation.cache import Arrays, Cache
from featup_cli.evaluation.data import Classes, Pair, check_size, read_class_labels
from featup_cli.evaluation.probe import (
    LinearProbe,
    boundary_band,
    class_mixes,
    confusion_matrix,
    fit_probe,
    iou,
    segmentation_scores,
)
from featup_cli.evaluation.source import FeatureSource, Look
from featup_cli.evaluation.training import train_probes

BAND_RADIUS = 3


class SegmentationTask:
    """Frozen linear classifiers applied to upsampled features at the size of the labels.

    Args:
        classes: what label values mean.
        probes: the first is the main one.
        trained_on: what fixes the probes, as JSON values.
    """

    name = "probe-seg"

    def __init__(self, classes: Classes, probes: Sequence[LinearProbe], trained_on: dict[str, Any]) -> None:
        self.classes = classes
        self.probes = len(probes) - 1
        self.weight = torch.cat([probe.weight for probe in probes])
        self.bias = torch.cat([probe.bias for probe in probes])
        self.settings: dict[str, Any] = {"classes": classes.describe(), "band_radius": BAND_RADIUS, "probe": trained_on}

    def prepare(self, source: FeatureSource, look: Look, item: Pair) -> Tensor:
        """Class ids [H, W]."""
        labels = read_class_labels(item.label, self.classes)
        check_size(item, labels.shape, look.picture.size)
        return labels.to(source.device)

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Tensor) -> Arrays:
        """Confusion matrices [probes, classes, classes] of the whole picture and of the band along boundaries."""
        count = len(self.classes.names)
        size = (prepared.shape[0], prepared.shape[1])
        logits, seconds = source.projected(method, look, self.weight, self.bias, size)
        predictions = logits.view(-1, count, *size).argmax(1)
        band = boundary_band(prepared, BAND_RADIUS)
        return {
            "confusion": torch.stack([confusion_matrix(p, prepared, count) for p in predictions]).cpu().numpy(),
            "band": torch.stack([confusion_matrix(p, prepared, count, band) for p in predictions]).cpu().numpy(),
            "seconds": np.array(seconds),
        }

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """mIoU, accuracy, mIoU of thin classes and of the band, in percent, of the summed confusion matrices."""
        whole, band = (torch.from_numpy(np.tensordot(counts, rows[k][:, probe], 1)) for k in ("confusion", "band"))
        scores = segmentation_scores(whole, self.classes.thin)
        if int(band.sum()):
            scores["band_miou"] = segmentation_scores(band)["miou"]
        return scores

    def details(self, rows: Arrays) -> dict[str, Any]:
        """IoU of each class that occurs, in percent."""
        total = torch.from_numpy(rows["confusion"][:, 0].sum(0))
        present = total.sum(1) > 0
        named = zip(self.classes.names, iou(total).tolist(), present.tolist(), strict=True)
        return {"iou": {name: 100 * value for name, value, occurs in named if occurs}}


def train_segmentation(
    source: FeatureSource, pairs: Sequence[Pair], classes: Classes, *, resamples: int, cache: Cache, progress: Progress
) -> SegmentationTask:
    """Train the probe on low-resolution features and class mixes, and `resamples` more on bootstrap draws of the
    training pictures.

    Raises:
        InputError: a picture or its labels can't be used.
    """

    def targets(pair: Pair, look: Look) -> tuple[Tensor, Tensor]:
        labels = read_class_labels(pair.label, classes)
        check_size(pair, labels.shape, look.picture.size)
        mixes, weights = class_mixes(labels, (look.lr_feats.shape[2], look.lr_feats.shape[3]), len(classes.names))
        return mixes.flatten(0, 1), weights.flatten()

    probes, trained_on = train_probes(
        source, pairs, targets, lambda t: fit_probe(t.features, t.targets, t.weights),
        {"task": SegmentationTask.name, "classes": classes.describe()},
        resamples=resamples, cache=cache, progress=progress,
    )  # fmt: skip
    return SegmentationTask(classes, probes, trained_on)
