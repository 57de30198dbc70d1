"""The segmentation probe: FeatUp, section 4.2, with scores per picture."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.bootstrap import Scores
from featup_cli.evaluation.cache import Arrays
from featup_cli.evaluation.data import Classes, find_classes, read_class_labels
from featup_cli.evaluation.probe import linear
from featup_cli.evaluation.probe.task import SEGMENTATION, SegmentationOptions
from featup_cli.evaluation.probe.training import ProbeScorer, Training, run_probe
from featup_cli.evaluation.source import FeatureSource, Request

BAND_RADIUS = 3


class SegmentationScorer(ProbeScorer):
    """Frozen linear classifiers; `classes` say what label values mean."""

    name = SEGMENTATION.name

    def __init__(self, classes: Classes) -> None:
        described = classes.describe()
        training = Training(
            partial(read_class_labels, classes=classes), partial(linear.class_mixes, classes=len(classes.names)),
            lambda tokens: linear.fit_probe(tokens.features, tokens.targets, tokens.weights), {"classes": described},
        )  # fmt: skip
        super().__init__(training, {"classes": described, "band_radius": BAND_RADIUS})
        self.classes = classes

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Tensor) -> Arrays:
        """Confusion matrices [probes, classes, classes] of the whole picture and of the band along boundaries."""
        labels, count = prepared.to(source.device), len(self.classes.names)
        logits, seconds = self.predict(source, look, method, labels)
        predictions = logits.unflatten(0, (-1, count)).argmax(1)
        masks = {"confusion": None, "band": linear.boundary_band(labels, BAND_RADIUS)}
        matrices = {
            key: torch.stack([linear.confusion_matrix(p, labels, count, mask) for p in predictions]).cpu().numpy()
            for key, mask in masks.items()
        }
        return {**matrices, "seconds": np.array(seconds)}

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """mIoU, accuracy, mIoU of thin classes and of the band, in percent, of the summed confusion matrices."""
        whole, band = (torch.from_numpy(np.tensordot(counts, rows[k][:, probe], 1)) for k in ("confusion", "band"))
        scores = linear.segmentation_scores(whole, self.classes.thin)
        if int(band.sum()):
            scores["band_miou"] = linear.segmentation_scores(band)["miou"]
        return scores

    def details(self, rows: Arrays) -> dict[str, Any]:
        """IoU of each class that occurs, in percent."""
        total = torch.from_numpy(rows["confusion"][:, 0].sum(0))
        present = total.sum(1) > 0
        named = zip(self.classes.names, linear.iou(total).tolist(), present.tolist(), strict=True)
        return {"iou": {name: 100 * value for name, value, occurs in named if occurs}}


def run(options: SegmentationOptions, request: Request) -> dict[str, Any]:
    """Score class labels; see `run.evaluate`."""
    classes = find_classes(options.data, options.classes, options.thin)
    return run_probe(SegmentationScorer(classes), options, request)
