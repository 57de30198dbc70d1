"""Train linear probes on low-resolution features: once on all training pictures, and on bootstrap draws of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.progress import Progress
from featup_cli.evaluation.bootstrap import resample_counts
from featup_cli.evaluation.cache import Arrays, Cache, cached_sha256
from featup_cli.evaluation.data import Pair
from featup_cli.evaluation.probe import Convergence, LinearProbe
from featup_cli.evaluation.source import FeatureSource, Look

Targets = Callable[[Pair, Look], tuple[Tensor, Tensor]]
"""What the tokens of a picture should give, [h * w, ...], and the weights [h * w] with which they count."""


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


Fit = Callable[[TrainingTokens], LinearProbe]


def collect_tokens(
    source: FeatureSource, pairs: Sequence[Pair], targets: Targets, progress: Progress
) -> TrainingTokens:
    """Run the backbone on every training picture; all tokens are held in memory."""
    parts = []
    for number, pair in enumerate(pairs):
        progress("training pictures", number, len(pairs), pair.picture.name)
        look = source.look(pair.picture)
        tokens = look.lr_feats[0].flatten(1).T
        of_picture, weights = (x.to(tokens.device) for x in targets(pair, look))
        parts.append((tokens, of_picture, weights, torch.full_like(weights, number, dtype=torch.long)))
    progress("training pictures", len(pairs), len(pairs), "")
    return TrainingTokens(*(torch.cat(part) for part in zip(*parts, strict=True)))


def train_probes(
    source: FeatureSource,
    pairs: Sequence[Pair],
    targets: Targets,
    fit: Fit,
    settings: dict[str, Any],
    *,
    resamples: int,
    cache: Cache,
    progress: Progress,
) -> tuple[list[LinearProbe], dict[str, Any]]:
    """A probe trained on all pictures, then one on each of `resamples` bootstrap draws of them.

    Args:
        targets: what tokens should give.
        fit: solves the problem; it must not depend on a random start.
        settings: what fixes `targets` and `fit`, as JSON values.
    Returns:
        the probes, and facts about their training as JSON values.
    """
    facts = {
        "task": "train probes", "settings": settings, "resamples": resamples, "seed": source.settings.seed,
        "source": source.identity(), "files": [[cached_sha256(path) for path in pair.files] for pair in pairs],
    }  # fmt: skip
    arrays = cache.get(facts)
    if arrays is None:
        arrays = _train(collect_tokens(source, pairs, targets, progress), len(pairs), fit, resamples, source, progress)
        cache.put(facts, arrays)
    probes = [
        LinearProbe(
            torch.from_numpy(weight).to(source.device), torch.from_numpy(bias).to(source.device),
            Convergence(int(steps), float(gradient), float(loss)),
        )
        for weight, bias, (steps, gradient, loss) in zip(
            arrays["weight"], arrays["bias"], arrays["convergence"], strict=True
        )
    ]  # fmt: skip
    record = {
        "training_pictures": len(pairs),
        "weights_sha256": hashlib.sha256(arrays["weight"].tobytes() + arrays["bias"].tobytes()).hexdigest(),
        "fits": [asdict(probe.convergence) | {"converged": probe.convergence.reached} for probe in probes],
    }
    return probes, record


def _train(
    tokens: TrainingTokens, pictures: int, fit: Fit, resamples: int, source: FeatureSource, progress: Progress
) -> Arrays:
    draws = [np.ones(pictures), *resample_counts(pictures, source.settings.seed + 1, resamples)]
    probes = []
    for number, counts in enumerate(draws):
        progress("probes", number, len(draws), "")
        times = torch.from_numpy(counts).to(tokens.weights)[tokens.picture]
        probes.append(fit(TrainingTokens(tokens.features, tokens.targets, tokens.weights * times, tokens.picture)))
    progress("probes", len(draws), len(draws), "")
    ends = [p.convergence for p in probes]
    return {
        "weight": torch.stack([p.weight for p in probes]).cpu().numpy(),
        "bias": torch.stack([p.bias for p in probes]).cpu().numpy(),
        "convergence": np.array([(e.iterations, e.gradient, e.loss) for e in ends], dtype=np.float64),
    }
