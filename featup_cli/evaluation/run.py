"""An evaluation from start to record: every method on every picture, scores, intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.core.checks import check_arguments, checked
from featup_cli.core.errors import UsageError
from featup_cli.core.options import declared
from featup_cli.core.references import resolve
from featup_cli.core.settings import check_within
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.bootstrap import Scores, differences, intervals, resample_counts
from featup_cli.evaluation.cache import Arrays, Cache, cached_sha256
from featup_cli.evaluation.data import Item
from featup_cli.evaluation.registry import BASELINE, OVER_BASELINE, TASKS
from featup_cli.evaluation.source import FeatureSource, Request, choose_methods

T = TypeVar("T")


@checked
def evaluate(
    task: str,
    data: Path | str | Sequence[Path | str],
    *,
    methods: str | Sequence[str] = "fast",
    backbone: str | BackboneConfig | Backbone = "tiny",
    **options: Any,
) -> dict[str, Any]:
    """Score methods by a task: what `featup eval` does, silent and without a cache unless told otherwise.

    Args:
        task: a key of `evaluation.registry.TASKS`.
        data: pictures, or the folder of a data set, as the task wants them (docs/evaluation.md).
        methods: `fast` for all that are available for the backbone and take one pass, `all`, or names.
        backbone: name, settings, or a loaded backbone.
        options: other fields of `evaluation.source.Request` (`resize`, `cache`, `progress`, `device`, ...), and
            options of the task (`split`, `limit`, `points`, ...).
    Returns:
        the run as JSON values, as `featup eval -o` writes it; `evaluation.report.make_tables` makes tables of runs.
    Raises:
        FeatUpError: one of its subclasses; the message says what to do.
        TypeError: an option that the task doesn't have.

    Example:
        >>> import tempfile, numpy as np, featup_cli as featup
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        >>> Image.fromarray(noise).save(f"{folder.name}/noise.png")
        >>> quick = featup.ImplicitConfig(views=5, heldout_views=2, max_steps=3, tokens=32)
        >>> asked = {"methods": "bilinear", "resize": 48, "implicit": quick, "device": "cpu"}
        >>> run = featup.evaluate("consistency", folder.name, **asked)
        >>> run["pictures"], list(run["methods"]["bilinear"]["scores"])
        (1, ['explained'])
    """
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r}; one of: {', '.join(TASKS)}")
    record = TASKS[task]
    shared = {each.name for each in fields(Request)} & options.keys()
    own = {name: value for name, value in options.items() if name not in shared}
    paths = tuple(map(Path, [data] if isinstance(data, (str, Path)) else data))
    single = record.data.kind is Path
    if not paths or (single and len(paths) > 1):
        raise UsageError(f"task {task} takes {'one path' if single else 'paths'}, not {len(paths)}")
    asked = record.options(**check_arguments(record.options, own), **{record.data.name: paths[0] if single else paths})
    for each in declared(record.options):
        low, high = each.option.min, each.option.max
        if isinstance(getattr(asked, each.name), (int, float)):
            ends = -math.inf if low is None else low, math.inf if high is None else high
            check_within(asked, **{each.name: ends})
    request = Request(methods, backbone, **{name: options[name] for name in shared})
    run: dict[str, Any] = resolve(record.run)(asked, request)
    return run


class Scorer:
    """Base of what scores the features of a task, picture by picture.

    Attributes:
        name: of the task.
        settings: all that fixes a picture's result besides the picture and its features, as JSON values.
        probes: how many further probes it scores, trained on other draws of the training pictures; most have none.
    """

    name: str
    settings: dict[str, Any]
    probes: int = 0

    def prepare(self, source: FeatureSource, look: Look, item: Any) -> Any:
        """What all methods share for one picture; handed to `measure`."""
        raise NotImplementedError

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Any) -> Arrays:
        """Arrays of one picture and method, always of the same shapes; `seconds` is one of them."""
        raise NotImplementedError

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """Scores of pictures that count `counts` [pictures] times, by the arrays of all pictures [pictures, ...].

        Undefined scores are left out. `probe` 0 is the main one. Here: the mean of each array of one number a picture.
        """
        return {name: float(np.average(row, weights=counts)) for name, row in rows.items() if name != "seconds"}

    def details(self, rows: Arrays) -> dict[str, Any]:
        """More facts about a method for the record, as JSON values."""
        return {}


class Evaluation:
    """A loaded backbone and the methods to score.

    Args:
        request: what is asked for.
        backbone: a loaded one to use instead of that of the request.
    Raises:
        UsageError, WeightsError: backbone or methods are unavailable.
    """

    def __init__(self, request: Request, backbone: Backbone | None = None) -> None:
        self.source = FeatureSource(request, backbone)
        self.methods = choose_methods(self.source)
        self.cache = Cache(request.cache)
        self.progress, self.note = request.progress, request.note

    def each(self, stage: str, items: Sequence[T]) -> Iterator[T]:
        """The items one by one; progress is told."""
        for number, item in enumerate(items):
            self.progress(stage, number, len(items), item.picture.name if isinstance(item, Item) else str(item))
            yield item
        self.progress(stage, len(items), len(items), "")

    def measure(self, scorer: Scorer, items: Sequence[Item]) -> dict[str, Arrays]:
        """Arrays [pictures, ...] of each method, one picture at a time; what the cache has is not done again."""
        source, cache = self.source, self.cache
        rows: dict[str, list[Arrays]] = {method: [] for method in self.methods}
        common = {"task": scorer.name, "settings": scorer.settings, "source": source.identity()}
        for item in self.each("pictures", items):
            facts = common | {"files": [cached_sha256(path) for path in item.files]}
            keys = {method: facts | {"method": source.describe_method(method)} for method in rows}
            known = {method: cache.get(key) for method, key in keys.items()}
            if None in known.values():
                look = source.look(item.picture)
                prepared = scorer.prepare(source, look, item)
            for method, arrays in known.items():
                if arrays is None:
                    arrays = scorer.measure(source, look, method, prepared)
                    cache.put(keys[method], arrays)
                rows[method].append(arrays)
        return {m: {key: np.stack([a[key] for a in of_m]) for key in of_m[0]} for m, of_m in rows.items()}

    def score(self, scorer: Scorer, items: Sequence[Item], **record: Any) -> dict[str, Any]:
        """Score the methods on pictures.

        Args:
            scorer: of the task.
            items: what to score.
            record: what else belongs into the result, such as the name of the data.
        Returns:
            the run as JSON values. Intervals are 95 % bootstrap intervals over pictures; with a single picture there
            are none. `over_bilinear` is the paired difference, if bilinear is among the methods.
        """
        rows, count, source = self.measure(scorer, items), len(items), self.source
        once, each = np.ones(count, dtype=np.int64), np.eye(count, dtype=np.int64)
        draws = resample_counts(count, source.request.seed)[: 0 if count == 1 else None]
        scores = {method: scorer.score(rows[method], once) for method in rows}
        resampled = {method: [scorer.score(rows[method], draw) for draw in draws] for method in rows}
        results: dict[str, dict[str, Any]] = {}
        for method, of_method in rows.items():
            result: dict[str, Any] = {"scores": scores[method], "intervals": intervals(resampled[method])}
            if BASELINE in rows and method != BASELINE:
                result[OVER_BASELINE] = {
                    "scores": differences(scores[method], scores[BASELINE]),
                    "intervals": intervals(list(map(differences, resampled[method], resampled[BASELINE]))),
                }
            if scorer.probes:
                result["other_probes"] = [scorer.score(of_method, once, 1 + i) for i in range(scorer.probes)]
            result["seconds_per_picture"] = float(of_method["seconds"].mean())
            result |= scorer.details(of_method)
            result["per_picture"] = [
                {"picture": item.picture.name, "seconds": float(seconds), **scorer.score(of_method, alone)}
                for item, seconds, alone in zip(items, of_method["seconds"], each, strict=True)
            ]
            results[method] = source.describe_method(method) | result
        run = {
            "task": scorer.name, **record, "pictures": count, "settings": scorer.settings, **source.describe(),
            "seed": source.request.seed, "fast": source.request.fast,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "methods": results,
        }  # fmt: skip
        return rounded(run)


def rounded(value: Any) -> Any:
    """JSON values with six significant digits."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value
