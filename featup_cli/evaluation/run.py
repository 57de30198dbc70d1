"""An evaluation from start to record: every method on every picture, scores, intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.core.progress import Announce, Progress, no_announcement, no_progress
from featup_cli.engine.pipeline import Upsampling
from featup_cli.evaluation.bootstrap import differences, intervals, resample_counts
from featup_cli.evaluation.cache import Arrays, Cache, cached_sha256
from featup_cli.evaluation.registry import BASELINE, OVER_BASELINE
from featup_cli.evaluation.scorer import Item, Scorer
from featup_cli.evaluation.source import FeatureSource, choose_methods
from featup_cli.upsamplers.implicit.config import ImplicitConfig


@dataclass(frozen=True)
class Evaluation:
    """A loaded backbone, the methods to score, and where results of single pictures are kept."""

    source: FeatureSource
    methods: Sequence[str]
    cache: Cache = field(default_factory=Cache)
    progress: Progress = no_progress
    note: Announce = no_announcement

    def measure(self, scorer: Scorer, items: Sequence[Item]) -> dict[str, Arrays]:
        """Arrays [pictures, ...] of each method, one picture at a time; what the cache has is not done again."""
        source, cache = self.source, self.cache
        rows: dict[str, list[Arrays]] = {method: [] for method in self.methods}
        common = {"task": scorer.name, "settings": scorer.settings, "source": source.identity()}
        for number, item in enumerate(items):
            facts = common | {"files": [cached_sha256(path) for path in item.files]}
            self.progress("pictures", number, len(items), item.picture.name)
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
        self.progress("pictures", len(items), len(items), "")
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
        rows, count, seed = self.measure(scorer, items), len(items), self.source.settings.seed
        once, each = np.ones(count, dtype=np.int64), np.eye(count, dtype=np.int64)
        draws = resample_counts(count, seed) if count > 1 else []
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
            results[method] = self.source.describe_method(method) | result
        run = {
            "task": scorer.name, **record, "pictures": count, "settings": scorer.settings, **self.source.describe(),
            "seed": seed, "fast": self.source.fast,
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


@dataclass(frozen=True)
class Request:
    """What can be asked of every evaluation; fields are the options that all commands share.

    Attributes:
        methods: `fast` for all that are available for the backbone and made once for all pictures, `all` for fits as
            well, or names, comma-separated or as a list.
        backbone: name, settings, or a loaded backbone.
        resize: network input, a short side or `HxW`; None for the backbone's own.
        implicit: settings of the implicit fit, and of the views of `consistency`.
        upsamplers: weights by method, a released name or a file; methods that are left out have the package's own.
        allow_other_backbone: accept weights for another backbone with as many channels.
        device: auto, cpu, cuda, ...
        seed: the same seed on the same device gives the same result.
        fast: of methods that are linear in the features, upsample what is read off them: the same result, sooner.
        cache: folder for results of single pictures, from which an interrupted run resumes; None keeps nothing.
        progress: called with (stage, done, total, text).
        note: called with sentences for the user.
    """

    methods: str | Sequence[str] = "fast"
    backbone: str | BackboneConfig | Backbone = "tiny"
    resize: str | int | None = None
    implicit: ImplicitConfig = field(default_factory=ImplicitConfig)
    upsamplers: Mapping[str, str] = field(default_factory=dict)
    allow_other_backbone: bool = False
    device: str = "auto"
    seed: int = 0
    fast: bool = True
    cache: Path | str | None = None
    progress: Progress = no_progress
    note: Announce = no_announcement

    @property
    def config(self) -> BackboneConfig:
        """Settings of the backbone."""
        asked = self.backbone
        return asked if isinstance(asked, BackboneConfig) else BackboneConfig(str(getattr(asked, "name", asked)))

    def open(self, backbone: Backbone | None = None) -> Evaluation:
        """Load backbone and methods.

        Args:
            backbone: a loaded one to use instead.
        Raises:
            UsageError, WeightsError: one of them is unavailable.
        """
        loaded = backbone or (self.backbone if isinstance(self.backbone, Backbone) else None)
        settings = Upsampling(
            self.config, implicit=self.implicit, resize=self.resize, device=self.device, seed=self.seed,
            allow_other_backbone=self.allow_other_backbone,
        )  # fmt: skip
        source = FeatureSource(
            settings, fast=self.fast, upsamplers=self.upsamplers, backbone=loaded, progress=self.progress
        )
        methods = choose_methods(self.methods, source, self.note)
        return Evaluation(source, methods, Cache(self.cache), self.progress, self.note)
