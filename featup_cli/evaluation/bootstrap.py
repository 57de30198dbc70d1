"""Bootstrap intervals over pictures (Efron, 1979): how far a score would move with other pictures of the same kind."""

from __future__ import annotations

import numpy as np

Scores = dict[str, float]
RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)


def resample_counts(pictures: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each picture is drawn in each resample with replacement: int64 [resamples, pictures].

    The same counts for all methods make their differences paired.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples)


def intervals(samples: list[Scores]) -> dict[str, list[float]]:
    """95 % percentile interval [low, high] of each score, over the resamples in which it is defined."""
    names = dict.fromkeys(name for sample in samples for name in sample)
    values = {name: [sample[name] for sample in samples if name in sample] for name in names}
    return {name: np.percentile(of_name, PERCENTILES).tolist() for name, of_name in values.items()}


def differences(a: Scores, b: Scores) -> Scores:
    """a - b, score by score."""
    return {name: a[name] - b[name] for name in a if name in b}
