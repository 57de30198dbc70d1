"""What was asked for, as files record it, and a memory of it that needs no backbone. Free of torch.

A request names the weights by their digests, which only loaded networks give. To load them takes seconds, so the
digests are kept in `~/.cache/featup/loaded` with the state of the files that they come from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from featup_cli.core.errors import OutputError
from featup_cli.core.versions import versions
from featup_cli.engine.settings import Output, Upsampling
from featup_cli.io.atomic import atomic_path

PACKAGED = Path(__file__).parents[1] / "weights"
PREFIXES = {"file:": False, "local-dir:": True}
"""Sources of weights that are files of the user: whether the source names a folder."""


class Loaded(NamedTuple):
    """What a request says of loaded networks: the backbone's identity, and the digest of the upsampler's weights."""

    backbone: dict[str, Any]
    upsampler: str | None


def make_request(settings: Upsampling, output: Output, loaded: Loaded) -> dict[str, Any]:
    """All that was asked for and fixes what the files hold, as JSON values; of the picture nothing."""
    asked = {
        "backbone": {name: value for name, value in loaded.backbone.items() if name != "device"},
        "method": settings.method,
        "settings": settings.method_settings,
        "upsampler": loaded.upsampler,
        "seed": settings.seed,
        "resize": settings.resize,
        "output_size": settings.output_size,
        **output.record(),
    }
    # As it reads back from a file: tuples become lists.
    request: dict[str, Any] = json.loads(json.dumps(asked, default=str))
    return request


def remember(settings: Upsampling, loaded: Loaded) -> None:
    """Keep what was loaded for these settings. Nothing is kept of weights whose files aren't known."""
    files = _files_of(settings, str(loaded.backbone.get("weights_source")))
    if files is None:
        return
    record = {"backbone": loaded.backbone, "upsampler": loaded.upsampler, "files": _stamps(files)}
    try:
        with atomic_path(_place(settings)) as temporary:
            temporary.write_text(json.dumps(record, default=str))
    except OutputError:
        return  # a memory that can't be kept costs time, and nothing else


def recall(settings: Upsampling) -> Loaded | None:
    """What these settings load, if it is known and none of the files has changed since."""
    try:
        record = json.loads(_place(settings).read_text())
        known = _stamps(path for path, *_ in record["files"]) == record["files"]
        return Loaded(record["backbone"], record["upsampler"]) if known else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _place(settings: Upsampling) -> Path:
    backbone = asdict(settings.backbone)
    if settings.backbone.weights is not None:
        backbone["weights"] = os.path.abspath(settings.backbone.weights)
    upsampler = os.path.abspath(settings.upsampler) if os.path.exists(settings.upsampler) else settings.upsampler
    packaged = _stamps(sorted(map(str, PACKAGED.iterdir())))
    # The format that `auto` computes in depends on the device.
    device = [settings.device, os.environ.get("CUDA_VISIBLE_DEVICES")]
    asked = [backbone, settings.method, upsampler, settings.allow_other_backbone, device, versions(), packaged]
    key = hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()[:32]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "featup" / "loaded" / f"{key}.json"


def _files_of(settings: Upsampling, source: str) -> list[str] | None:
    """The files that hold the weights; None if they aren't known."""
    files: Sequence[str | Path] | None
    if source in ("packaged", "random"):
        files = []
    elif source.startswith("hf-hub:"):
        files = _hub_files(source.removeprefix("hf-hub:").partition("@")[0]) or None
    else:
        prefix = next((prefix for prefix in PREFIXES if source.startswith(prefix)), None)
        if prefix is None:
            return None
        path = Path(source.removeprefix(prefix))
        files = sorted(path.iterdir()) if PREFIXES[prefix] else [path]
    if files is None:
        return None
    if settings.upsampler != "auto":
        from featup_cli.upsamplers.weights.releases import all_releases

        release = all_releases().get(settings.upsampler)
        files = [*files, settings.upsampler if release is None else release.cached]
    return [os.path.abspath(path) for path in files]


def _hub_files(name: str) -> list[Path]:
    """The files of the hub's cache that say which version of a model is there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return sorted((Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs").glob("*"))


def _stamps(paths: Iterable[str]) -> list[list[Any]]:
    """Path, size and time of the last change of each file; of one that is missing the path alone."""
    stamps: list[list[Any]] = []
    for path in paths:
        try:
            state = os.stat(path)
            stamps.append([path, state.st_size, state.st_mtime_ns])
        except OSError:
            stamps.append([path])
    return stamps
