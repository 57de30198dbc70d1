"""Evaluations as one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.core.options import declared
from featup_cli.core.plugins import resolve
from featup_cli.core.progress import Announce, Progress, no_announcement, no_progress
from featup_cli.evaluation.registry import find_task
from featup_cli.evaluation.run import Request


def evaluate(
    task: str,
    data: Path | str | Sequence[Path | str],
    *,
    methods: str | Sequence[str] = "fast",
    backbone: str | BackboneConfig | Backbone = "tiny",
    cache: Path | str | None = None,
    progress: Progress = no_progress,
    note: Announce = no_announcement,
    **options: Any,
) -> dict[str, Any]:
    """Score methods by a task: what `featup eval` does, silent and without a cache unless told otherwise.

    Args:
        task: a key of `evaluation.registry.TASKS`.
        data: pictures, or the folder of a data set, as the task wants them (docs/evaluation.md).
        methods, backbone, cache, progress, note: see `evaluation.run.Request`.
        options: its other fields, and options of the task by their names: `split`, `limit`, `points`, ...
    Returns:
        the run as JSON values, as `featup eval -o` writes it; `evaluation.report.make_tables` makes tables of runs.
    Raises:
        FeatUpError: one of its subclasses; the message says what to do.
        TypeError: an option that the task doesn't have.

    Example:
        >>> import tempfile, numpy as np, featup_cli as featup
        >>> from featup_cli.evaluation.api import evaluate
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        >>> Image.fromarray(noise).save(f"{folder.name}/noise.png")
        >>> quick = featup.ImplicitConfig(views=5, heldout_views=2, max_steps=3, tokens=32)
        >>> run = evaluate("consistency", folder.name, methods="bilinear", resize=48, implicit=quick, device="cpu")
        >>> run["pictures"], list(run["methods"]["bilinear"]["scores"])
        (1, ['explained'])
    """
    record = find_task(task)
    shared = {each.name for each in fields(Request)} & options.keys()
    own = {name: value for name, value in options.items() if name not in shared}
    (holds,) = (each for each in declared(record.options) if each.option.positional)
    several = [data] if isinstance(data, (str, Path)) else data
    own[holds.name] = Path(several[0]) if holds.kind is Path else tuple(map(Path, several))
    request = Request(
        methods=methods, backbone=backbone, cache=cache, progress=progress, note=note,
        **{name: options[name] for name in shared},
    )  # fmt: skip
    run: dict[str, Any] = resolve(record.run)(record.options(**own), request)
    return run
