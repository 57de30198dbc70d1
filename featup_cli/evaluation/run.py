"""An evaluation from start to record: every method on every picture, scores, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from featup_cli.core.progress import Progress
from featup_cli.evaluation.bootstrap import Scores, differences, intervals, resample_counts
from featup_cli.evaluation.cache import Arrays, Cache, cached_sha256
from featup_cli.evaluation.source import FeatureSource, Look

BASELINE = "bilinear"


class Item(Protocol):
    """Something to score: a picture and, with some tasks, files that belong to it."""

    @property
    def picture(self) -> Path: ...

    @property
    def files(self) -> tuple[Path, ...]: ...


I = TypeVar("I", bound=Item, contravariant=True)  # noqa: E741


class Task(Protocol[I]):
    """A way to score upsampled features, picture by picture.

    Attributes:
        name: key of `report.COLUMNS`.
        settings: all that fixes a picture's result besides the picture and its features, as JSON values.
        probes: how many further probes it scores, trained on other draws of the training pictures; most have none.
    """

    name: str
    settings: dict[str, Any]
    probes: int

    def prepare(self, source: FeatureSource, look: Look, item: I) -> Any:
        """What all methods share for one picture; handed to `measure`."""
        ...

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Any) -> Arrays:
        """Arrays of one picture and method, always of the same shapes; `seconds` is one of them."""
        ...

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """Scores of pictures that count `counts` [pictures] times, by the arrays of all pictures [pictures, ...].

        Undefined scores are left out. `probe` 0 is the main one.
        """
        ...

    def details(self, rows: Arrays) -> dict[str, Any]:
        """More facts about a method for the record, as JSON values."""
        ...


def measure_pictures(
    task: Task[I], items: Sequence[I], methods: Sequence[str], source: FeatureSource, cache: Cache, progress: Progress
) -> dict[str, list[Arrays]]:
    """Measure all methods on all pictures, one picture at a time; what the cache has is not done again."""
    rows: dict[str, list[Arrays]] = {method: [] for method in methods}
    common = {"task": task.name, "settings": task.settings, "source": source.identity()}
    for number, item in enumerate(items):
        facts = common | {"files": [cached_sha256(path) for path in item.files]}
        progress("pictures", number, len(items), item.picture.name)
        keys = {method: facts | {"method": source.describe_method(method)} for method in methods}
        known = {method: cache.get(key) for method, key in keys.items()}
        if any(found is None for found in known.values()):
            look = source.look(item.picture)
            prepared = task.prepare(source, look, item)
        for method in methods:
            arrays = known[method]
            if arrays is None:
                arrays = task.measure(source, look, method, prepared)
                cache.put(keys[method], arrays)
            rows[method].append(arrays)
    progress("pictures", len(items), len(items), "")
    return rows


def evaluate(
    task: Task[I],
    items: Sequence[I],
    methods: Sequence[str],
    source: FeatureSource,
    *,
    cache: Cache,
    progress: Progress,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Score methods on pictures.

    Args:
        items: what to score.
        cache: where results of single pictures are kept.
        record: what else belongs into the result, such as the name of the data.
    Returns:
        the run as JSON values. Intervals are 95 % bootstrap intervals over pictures; with a single picture there are
        none. `over_bilinear` is the paired difference, if bilinear is among the methods.
    """
    measured = measure_pictures(task, items, methods, source, cache, progress)
    rows = {m: {key: np.stack([a[key] for a in of_m]) for key in of_m[0]} for m, of_m in measured.items()}
    once = np.ones(len(items), dtype=np.int64)
    counts: Sequence[np.ndarray] = list(resample_counts(len(items), source.settings.seed)) if len(items) > 1 else []
    resampled = {m: [task.score(rows[m], row) for row in counts] for m in methods}
    results: dict[str, Any] = {}
    for method in methods:
        scores = task.score(rows[method], once)
        each = [task.score(rows[method], np.eye(1, len(items), k, dtype=np.int64)[0]) for k in range(len(items))]
        result: dict[str, Any] = {"scores": scores, "intervals": intervals(resampled[method])}
        if BASELINE in methods and method != BASELINE:
            pairs = zip(resampled[method], resampled[BASELINE], strict=True)
            result["over_bilinear"] = {
                "scores": differences(scores, task.score(rows[BASELINE], once)),
                "intervals": intervals([differences(a, b) for a, b in pairs]),
            }
        if task.probes:
            result["other_probes"] = [task.score(rows[method], once, 1 + i) for i in range(task.probes)]
        result["seconds_per_picture"] = float(rows[method]["seconds"].mean())
        result |= task.details(rows[method])
        result["per_picture"] = [
            {"picture": item.picture.name, "seconds": float(s), **scores}
            for item, s, scores in zip(items, rows[method]["seconds"], each, strict=True)
        ]
        results[method] = result
    run = {
        "task": task.name, **record, "pictures": len(items), "settings": task.settings, **source.describe(),
        "seed": source.settings.seed, "fast": source.fast,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "methods": {m: source.describe_method(m) | results[m] for m in methods},
    }  # fmt: skip
    return rounded(run)


def rounded(value: Any) -> Any:
    """JSON values with six significant digits."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def mean_scores(rows: Arrays, counts: np.ndarray, names: Sequence[str]) -> Scores:
    """Means of per-picture values, for tasks that have nothing else to add up."""
    return {name: float(np.average(rows[name], weights=counts)) for name in names}
