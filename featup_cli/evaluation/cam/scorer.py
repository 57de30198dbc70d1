"""Class activation maps of upsampled features: FeatUp, sections 4.3 and 6.10.

A map shows how much each position speaks for a class (Zhou et al., 2016): the features before the classifier's
pooling, times the weights of that class. A good map marks the pixels that the classifier needs: with the others
blurred, its confidence drops little, or rises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.timm.classifier import Classifier, load_classifier
from featup_cli.core.describe import choose_device
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.text import counted
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.bootstrap import Scores
from featup_cli.evaluation.cache import Arrays
from featup_cli.evaluation.cam.task import TASK, CamOptions
from featup_cli.evaluation.data import Item, find_images, name_of, read_list
from featup_cli.evaluation.run import Evaluation, Scorer
from featup_cli.evaluation.source import FeatureSource, Request

KEPT = 0.5  # share of the pixels, section 6.10


@dataclass(frozen=True)
class Explained:
    """What is shared by all methods of a picture.

    Attributes:
        image: [3, H, W] in [0, 1], as the network sees it; `blurred` is its blurred copy.
        target: the class to explain.
        confidence: Y, the probability that the classifier gives it.
    """

    image: Tensor
    blurred: Tensor
    target: int
    confidence: float


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur [C, H, W] by a Gaussian of `sigma` pixels, cut off at four of them; the border is repeated outside."""
    radius = max(round(4 * sigma), 1)
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = taps / taps.sum()
    rows = F.conv2d(F.pad(image[:, None], (0, 0, radius, radius), mode="replicate"), taps.view(1, 1, -1, 1))
    return F.conv2d(F.pad(rows, (radius, radius, 0, 0), mode="replicate"), taps.view(1, 1, 1, -1))[:, 0]


def keep_top(cam: Tensor, image: Tensor, blurred: Tensor, share: float = KEPT) -> Tensor:
    """`image` [3, H, W] where `cam` [H, W] is among the highest `share` of its pixels, `blurred` elsewhere.

    Exactly that share is kept, whatever the map: of equal values, those that come first in reading order.
    """
    order = cam.flatten().argsort(descending=True, stable=True)
    kept = torch.zeros_like(order, dtype=torch.bool)
    kept[order[: round(share * len(order))]] = True
    return torch.where(kept.view(cam.shape), image, blurred)


class CamScorer(Scorer):
    """Average Drop and Average Increase of maps from upsampled features, at the size of the network's input.

    Args:
        classifier: whose backbone gives the features.
        blur: standard deviation of the blur as a share of the short side of the network's input; the paper names none.
        target: the class to explain; None for the one that the classifier predicts.
    """

    name = TASK.name

    def __init__(self, classifier: Classifier, blur: float, target: int | None = None) -> None:
        self.classifier = classifier
        self.blur = blur
        self.target = target
        self.settings = {
            "kept": KEPT, "blur": blur, "class": "predicted" if target is None else target,
            "pooling": classifier.pooling,
        }  # fmt: skip

    def prepare(self, source: FeatureSource, look: Look, item: Item) -> Explained:
        """The picture, its blurred copy, its class and how sure the classifier is of it."""
        image = look.picture.resized(look.plan.network).to(source.device)
        probabilities = self.classifier.probabilities(image[None])[0]
        target = int(probabilities.argmax()) if self.target is None else self.target
        blurred = gaussian_blur(image, self.blur * min(look.plan.network))
        return Explained(image, blurred, target, float(probabilities[target]))

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Explained) -> Arrays:
        """`class`, its probabilities `confidence` (Y) and `masked` (O), and `seconds` of the method."""
        # The head's bias is the same for every position: it changes no order.
        weight = self.classifier.weight[prepared.target, None]
        cam, seconds = source.projected(method, look, weight, weight.new_zeros(1), look.plan.network)
        masked = keep_top(cam[0], prepared.image, prepared.blurred)
        return {
            "class": np.array(prepared.target),
            "confidence": np.array(prepared.confidence),
            "masked": np.array(float(self.classifier.probabilities(masked[None])[0, prepared.target])),
            "seconds": np.array(seconds),
        }

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """Average Drop, max(0, Y - O) / Y, and Average Increase, the share with Y < O, in percent (section 6.10).

        The first formula as printed lacks the division by the number of pictures, which its name and its values in
        table 1 have.
        """
        confidence, masked = rows["confidence"], rows["masked"]
        drop, increase = 100 * np.maximum(confidence - masked, 0) / confidence, 100.0 * (confidence < masked)
        return {
            "average_drop": float(np.average(drop, weights=counts)),
            "average_increase": float(np.average(increase, weights=counts)),
        }

    def details(self, rows: Arrays) -> dict[str, Any]:
        """Class and probabilities of each picture, in order."""
        return {key: rows[key].tolist() for key in ("class", "confidence", "masked")}


def read_targets(path: Path) -> dict[Path, int]:
    """True classes by picture, from lines `picture class`; pictures are relative to the list.

    Raises:
        InputError: no such file, or a line of another form.
    """
    targets = {}
    for place, words in read_list(path, "picture class"):
        if len(words) != 2 or not words[1].isdecimal():
            raise InputError(f"{place}: expected `picture class`, the class being a number from 0")
        targets[(path.parent / words[0]).resolve()] = int(words[1])
    return targets


def keep_recognised(
    evaluation: Evaluation, classifier: Classifier, items: Sequence[Item], targets: dict[Path, int]
) -> list[Item]:
    """The pictures whose predicted class is the true one; the paper scores only those (section 6.10).

    Raises:
        InputError: a picture has no true class, or none is recognised.
    """
    for item in items:
        if item.picture.resolve() not in targets:
            raise InputError(f"{item.picture}: is not in the list of true classes")
    kept = []
    for item in evaluation.each("classes", items):
        look = evaluation.source.look(item.picture)
        probabilities = classifier.probabilities(look.picture.resized(look.plan.network)[None])[0]
        if int(probabilities.argmax()) == targets[item.picture.resolve()]:
            kept.append(item)
    if not kept:
        raise InputError("no picture is classified as the list says: is the order of its classes the network's own?")
    evaluation.note(f"{len(kept)} of {counted(len(items), 'picture')} classified as labelled; others are left out")
    return kept


def run(options: CamOptions, request: Request) -> dict[str, Any]:
    """Score maps of a classifier on pictures; see `run.evaluate`.

    Raises:
        UsageError: no classifier, or one without the class.
    """
    if isinstance(request.backbone, Backbone):
        raise UsageError("give the name or the settings of a backbone: its classifier is loaded with it")
    items = find_images(options.images, options.limit)
    targets = read_targets(Path(options.labels)) if options.labels is not None else None
    classifier = load_classifier(request.config, choose_device(request.device))
    classes = len(classifier.weight)
    if options.target is not None and options.target >= classes:
        raise UsageError(f"--class {options.target}: {request.config.name} has the classes 0 to {classes - 1}")
    evaluation = Evaluation(request, classifier.backbone)
    record: dict[str, Any] = {"data": name_of(options.images)}
    if targets is not None:
        record["labelled"] = len(items)
        items = keep_recognised(evaluation, classifier, items, targets)
    return evaluation.score(CamScorer(classifier, options.blur, options.target), items, **record)
