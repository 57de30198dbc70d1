"""The feature at a point of one picture finds its match in another: FeatUp, section 6.9 and figure 15.

Similarity is the cosine between features, as is usual for matching frozen features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.shapes import Size
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.bootstrap import Scores
from featup_cli.evaluation.cache import Arrays, cached_sha256
from featup_cli.evaluation.data import IGNORE, Classes, Pair, check_pairs, find_classes, find_pairs, read_class_labels
from featup_cli.evaluation.retrieval.task import POINTS, TASK, RetrievalOptions
from featup_cli.evaluation.run import Evaluation, Scorer
from featup_cli.evaluation.source import FeatureSource, Request

QUERIES = 32  # compared at one time
PIXELS = 65_536  # compared at one time
TIE = 1e-6  # similarities closer than this are equal: rounding


def cosine_similarity(queries: Tensor, features: Tensor) -> Tensor:
    """Cosine between each query [Q, C] and each pixel of features [C, H, W]: [Q, H, W]; zero where a feature is."""
    unit = F.normalize(queries, dim=1)
    blocks = [unit @ F.normalize(block, dim=0) for block in features.flatten(1).split(PIXELS, 1)]
    return torch.cat(blocks, 1).view(-1, *features.shape[1:])


def matching_share(queries: Tensor, classes: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Whether the most similar pixel has the class of the query: float [Q].

    Between 0 and 1 if several pixels are equally similar, as all those of a token are when it is copied: the share
    of them that has the class. Void pixels can't be found.

    Args:
        queries: [Q, C]; their `classes` [Q].
        features: [C, H, W].
        labels: class ids [H, W]; void is `IGNORE`.
    """
    found = labels.flatten()
    shares = []
    for query, own in zip(queries.split(QUERIES), classes.split(QUERIES), strict=True):
        similarity = cosine_similarity(query, features).flatten(1).masked_fill_(found == IGNORE, -torch.inf)
        best = similarity >= similarity.amax(1, keepdim=True) - TIE
        shares.append((best & (found == own[:, None])).sum(1) / best.sum(1))
    return torch.cat(shares)


def draw_points(labels: Tensor, target: Tensor, classes: int, points: int, seed: Sequence[int]) -> Tensor:
    """Query pixels of each class that both pictures have, drawn without repetition: flat indices, sorted by class.

    Args:
        labels: class ids [H, W] of the picture with the queries; `target` are those of the other.
        points: of each class; all its pixels if it has fewer.
        seed: the same one gives the same points.
    """
    generator = np.random.default_rng(seed)
    flat = labels.flatten().numpy()
    drawn = [np.empty(0, dtype=np.int64)]
    for number in range(classes):
        pixels = np.flatnonzero(flat == number)
        if len(pixels) and bool((target == number).any()):
            drawn.append(np.sort(generator.choice(pixels, min(points, len(pixels)), replace=False)))
    return torch.from_numpy(np.concatenate(drawn))


@dataclass(frozen=True)
class Match(Pair):
    """A labelled picture in which queries are drawn, and another one in which they are looked for."""

    target: Pair

    @property
    def files(self) -> tuple[Path, ...]:
        """All four files."""
        return (*super().files, *self.target.files)


def make_matches(pairs: Sequence[Pair]) -> list[Match]:
    """Each picture with that half the list further on: every one is searched for once and searched in once.

    Neighbours in a list are often frames of one video, in which matches lie at the same place.

    Raises:
        InputError: a single picture.
    """
    if len(pairs) < 2:
        raise InputError(f"{pairs[0].picture}: retrieval needs at least two pictures")
    others = (pairs[(k + len(pairs) // 2) % len(pairs)] for k in range(len(pairs)))
    return [Match(pair.picture, pair.label, other) for pair, other in zip(pairs, others, strict=True)]


@dataclass(frozen=True)
class Queries:
    """What is shared by all methods of two pictures.

    Attributes:
        target: the other picture, as the backbone sees it.
        size: (height, width) of the first.
        points: flat indices of its query pixels [Q]; their `classes` [Q].
        labels: class ids of the other [H, W].
    """

    target: Look
    size: Size
    points: Tensor
    classes: Tensor
    labels: Tensor


class RetrievalScorer(Scorer):
    """Do the most similar features of another picture lie on the same class?

    Args:
        classes: what label values mean.
        points: queries of each class and pair of pictures.
    """

    name = TASK.name

    def __init__(self, classes: Classes, points: int = POINTS) -> None:
        self.classes = classes
        self.points = points
        self.settings = {"classes": classes.describe(), "points": points}

    def prepare(self, source: FeatureSource, look: Look, item: Match) -> Queries:
        """Draw the queries, by the seed and the labels alone, and look at the other picture."""
        labels, found = (read_class_labels(pair.label, self.classes) for pair in (item, item.target))
        target = source.look(item.target.picture)
        seed = [source.request.seed, *(int(cached_sha256(pair.label)[:16], 16) for pair in (item, item.target))]
        points = draw_points(labels, found, len(self.classes.names), self.points, seed)
        size = (labels.shape[0], labels.shape[1])
        return Queries(
            target, size, points.to(source.device), labels.flatten()[points].to(source.device), found.to(source.device)
        )

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Queries) -> Arrays:
        """`queries` and `hits` of each class [classes], and `seconds` of the method for both pictures.

        Of the first picture only the queries are kept, so that features of one picture are held at a time.
        """
        features, seconds = source.features(method, look, prepared.size)
        queries = features.flatten(1)[:, prepared.points].T.contiguous()
        del features
        height, width = prepared.labels.shape
        features, more = source.features(method, prepared.target, (height, width))
        hits = matching_share(queries, prepared.classes, features, prepared.labels)
        count = len(self.classes.names)
        of_class = prepared.classes.cpu().numpy()
        return {
            "queries": np.bincount(of_class, minlength=count),
            "hits": np.bincount(of_class, hits.double().cpu().numpy(), count),
            "seconds": np.array(seconds + more),
        }

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """In percent: accuracy over all queries, its mean over classes, and that over the thin ones."""
        queries, hits = counts @ rows["queries"], counts @ rows["hits"]
        asked = queries > 0
        accuracy = 100 * hits / np.maximum(queries, 1)
        scores = {}
        if asked.any():
            scores = {
                "class_accuracy": float(accuracy[asked].mean()),
                "accuracy": 100 * float(hits.sum() / queries.sum()),
            }
        thin = [number for number in self.classes.thin if asked[number]]
        if thin:
            scores["thin_accuracy"] = float(accuracy[thin].mean())
        return scores

    def details(self, rows: Arrays) -> dict[str, Any]:
        """Queries and accuracy of each class, in percent."""
        queries, hits = rows["queries"].sum(0), rows["hits"].sum(0)
        return {
            "of_class": {
                name: {"queries": int(q), "accuracy": 100 * float(h / q)}
                for name, q, h in zip(self.classes.names, queries, hits, strict=True)
                if q
            }
        }


def run(options: RetrievalOptions, request: Request) -> dict[str, Any]:
    """Score matches between labelled pictures; see `run.evaluate`."""
    data, split = options.source, options.split or "val"
    if data.is_file():
        raise UsageError(f"{data}: give a second picture to look in, and points with --at; or a folder with labels")
    classes = find_classes(data, options.classes, options.thin)
    pairs = find_pairs(data, split, options.limit)
    check_pairs(pairs, partial(read_class_labels, classes=classes))
    matches, scorer = make_matches(pairs), RetrievalScorer(classes, options.points or POINTS)
    return Evaluation(request).score(scorer, matches, data=data.name, split=split)
