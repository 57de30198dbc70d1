"""Linear probes: trained on low-resolution features, frozen, applied to upsampled features of any method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.bootstrap import resample_counts
from featup_cli.evaluation.cache import Arrays, cached_sha256
from featup_cli.evaluation.data import Pair, check_pairs, find_pairs
from featup_cli.evaluation.probe.linear import Convergence, LinearProbe
from featup_cli.evaluation.probe.task import ProbeOptions
from featup_cli.evaluation.run import Evaluation, Scorer
from featup_cli.evaluation.source import FeatureSource, Request


@dataclass(frozen=True)
class TrainingTokens:
    """Low-resolution features of all training pictures.

    Attributes:
        features: [N, C].
        targets: [N, ...].
        weights: [N], not negative.
        picture: int64 [N], number of the picture that each token is of.
    """

    features: Tensor
    targets: Tensor
    weights: Tensor
    picture: Tensor


@dataclass(frozen=True)
class Training:
    """What a probe learns.

    Attributes:
        read: labels [H, W] of a file; raises InputError if they can't be used.
        targets: of labels and a grid (h, w), to what its tokens should give [h, w, ...] and the weights [h, w] with
            which they count.
        fit: solves the problem; the result must not depend on a random start.
        settings: what fixes these, as JSON values.
    """

    read: Callable[[Path], Tensor]
    targets: Callable[[Tensor, Size], tuple[Tensor, Tensor]]
    fit: Callable[[TrainingTokens], LinearProbe]
    settings: dict[str, Any]


class ProbeScorer(Scorer):
    """Frozen linear probes applied to upsampled features at the size of the labels.

    Args:
        training: what they learn.
        settings: what fixes their scores besides, as JSON values.
    """

    def __init__(self, training: Training, settings: dict[str, Any]) -> None:
        self.training = training
        self.settings = settings

    def use(self, weight: Tensor, bias: Tensor, trained_on: dict[str, Any]) -> None:
        """Take probes, the main one first: weights [P, K, C], biases [P, K], facts of their training as JSON values."""
        self.probes = len(weight) - 1
        self.weight, self.bias = weight.flatten(0, 1), bias.flatten()
        self.settings = self.settings | {"probe": trained_on}

    def prepare(self, source: FeatureSource, look: Look, item: Pair) -> Tensor:
        """Labels [H, W] of the picture."""
        return self.training.read(item.label)

    def predict(self, source: FeatureSource, look: Look, method: str, labels: Tensor) -> tuple[Tensor, float]:
        """What all probes say, one after the other, at the size of the labels; and `seconds` of the method."""
        return source.projected(method, look, self.weight, self.bias, (labels.shape[0], labels.shape[1]))

    def train(self, evaluation: Evaluation, pairs: Sequence[Pair], resamples: int) -> None:
        """Train a probe on all pictures, then one on each of `resamples` bootstrap draws of them, and use them.

        Raises:
            InputError: a picture or its labels can't be used.
        """
        source, cache = evaluation.source, evaluation.cache
        facts = {
            "task": "train probes", "settings": {"task": self.name, **self.training.settings},
            "resamples": resamples, "seed": source.request.seed, "source": source.identity(),
            "files": [[cached_sha256(path) for path in pair.files] for pair in pairs],
        }  # fmt: skip
        arrays = cache.get(facts)
        if arrays is None:
            arrays = self._train(evaluation, self.collect(evaluation, pairs), resamples)
            cache.put(facts, arrays)
        weight, bias = (torch.from_numpy(arrays[key]).to(source.device) for key in ("weight", "bias"))
        ends = [Convergence(int(steps), float(slope), float(loss)) for steps, slope, loss in arrays["convergence"]]
        record = {
            "training_pictures": len(pairs),
            "weights_sha256": hashlib.sha256(arrays["weight"].tobytes() + arrays["bias"].tobytes()).hexdigest(),
            "fits": [asdict(end) | {"converged": end.reached} for end in ends],
        }
        self.use(weight, bias, record)

    def collect(self, evaluation: Evaluation, pairs: Sequence[Pair]) -> TrainingTokens:
        """Run the backbone on every training picture; all tokens are held in memory."""
        parts: list[tuple[Tensor, ...]] = []
        for pair in evaluation.each("training pictures", pairs):
            look = evaluation.source.look(pair.picture)
            tokens = look.lr_feats[0].flatten(1).T
            targets = self.training.targets(self.training.read(pair.label), look.plan.grid)
            of_picture, weights = (x.flatten(0, 1).to(tokens.device) for x in targets)
            parts.append((tokens, of_picture, weights, torch.full_like(weights, len(parts), dtype=torch.long)))
        return TrainingTokens(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _train(self, evaluation: Evaluation, tokens: TrainingTokens, resamples: int) -> Arrays:
        pictures = int(tokens.picture.max()) + 1
        draws = [np.ones(pictures), *resample_counts(pictures, evaluation.source.request.seed + 1, resamples)]
        probes = []
        for number in evaluation.each("probes", range(len(draws))):
            weights = tokens.weights * torch.from_numpy(draws[number]).to(tokens.weights)[tokens.picture]
            probes.append(self.training.fit(replace(tokens, weights=weights)))
        ends = [(p.convergence.iterations, p.convergence.gradient, p.convergence.loss) for p in probes]
        return {
            "weight": torch.stack([p.weight for p in probes]).cpu().numpy(),
            "bias": torch.stack([p.bias for p in probes]).cpu().numpy(),
            "convergence": np.array(ends, dtype=np.float64),
        }


def run_probe(
    scorer: ProbeScorer, options: ProbeOptions, request: Request, find: Callable[..., list[Pair]] = find_pairs
) -> dict[str, Any]:
    """Train probes on one split and score them on another; see `run.evaluate`."""
    train = find(options.data, options.train_split, options.train_limit)
    pairs = find(options.data, options.split, options.limit)
    check_pairs([*train, *pairs], scorer.training.read)
    evaluation = Evaluation(request)
    scorer.train(evaluation, train, options.seeds)
    for fit in scorer.settings["probe"]["fits"]:
        text = f"probe: {fit['iterations']} iterations, gradient {fit['gradient']:.1e}, loss {fit['loss']:.4f}"
        evaluation.note(text if fit["converged"] else f"{text}; not converged: its scores may be too low")
    record = {"data": options.data.name, "split": options.split, "train_split": options.train_split}
    return evaluation.score(scorer, pairs, **record)
