"""Upsamplers with weights: found by `auto`, a name or a file, checked, and ready for the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

from featup_cli.backbones.api import Backbone
from featup_cli.core.errors import UsageError, WeightsError
from featup_cli.core.progress import Announce
from featup_cli.io.digest import file_sha256
from featup_cli.upsamplers.api import UpsamplerModule
from featup_cli.upsamplers.attached import PretrainedUpsampler
from featup_cli.upsamplers.method import Making
from featup_cli.upsamplers.registry import TRAINABLE
from featup_cli.upsamplers.weights.file import KINDS, load_upsampler, read_metadata
from featup_cli.upsamplers.weights.identity import check_backbone, describe_identity
from featup_cli.upsamplers.weights.imported import read_checkpoint
from featup_cli.upsamplers.weights.normed import NormedUpsampler
from featup_cli.upsamplers.weights.releases import Release, all_releases, fetch

SHIPPED = Path(__file__).parents[2] / "weights"
"""Where the package keeps its own weights."""


def build(making: Making) -> PretrainedUpsampler:
    """The upsampler of a method that has weights; see `load_pretrained`."""
    known = making.backbone if isinstance(making.backbone, Backbone) else None
    return load_pretrained(
        making.method.name, making.upsampler, known, allow_other_backbone=making.allow_other_backbone,
        offline=making.offline, announce=making.announce,
    )  # fmt: skip


def load_pretrained(
    method: str,
    source: Path | str = "auto",
    backbone: Backbone | None = None,
    *,
    allow_other_backbone: bool = False,
    offline: bool = False,
    announce: Announce | None = None,
) -> PretrainedUpsampler:
    """Load an upsampler with its weights; never with random ones.

    Args:
        method: with weights (`registry.TRAINABLE`).
        source: `auto` for the package's own weights; the name of others in the package (`Method.alternatives`) or of
            released ones (`all_releases`); or a file of ours.
        backbone: whose features will be upsampled; None leaves it unchecked.
        allow_other_backbone: accept weights for another backbone with as many channels.
        offline: never use the network.
        announce: told of downloads.
    Raises:
        UsageError: neither a name nor a file, or weights of another method.
        WeightsError: there are none, they can't be read, or they are for another backbone.
    """
    label, releases, alternatives = str(source), all_releases(), _alternatives(method)
    if label == "auto" or label in alternatives:
        path = alternatives.get(label) or _shipped_for(method, backbone)
        module, metadata = load_upsampler(path)
        label = f"packaged:{path.name}"
    elif label in releases:
        path = fetch(releases[label], offline, announce)
        module, metadata = _read_release(releases[label], path)
    else:
        path = Path(source)
        if not path.exists() and path.name == label and not path.suffix:
            names = ", ".join(["auto", *alternatives, *releases])
            raise UsageError(f"--upsampler {label}: no such file, and not one of: {names}")
        module, metadata = load_upsampler(path)
    if KINDS[metadata["method"]][0].name != method:
        raise UsageError(f"upsampler {label} is of method {metadata['method']}, not {method}")
    guidance = metadata["config"].get("guidance_channels", 3)
    if metadata["config"].get("guidance") == "features" and guidance != 3:
        raise UsageError(
            f"upsampler {label} is guided by a map of {guidance} channels, not by pictures; call it in your own network"
        )
    notes = check_backbone(metadata, backbone, label, allow_other_backbone) if backbone is not None else []
    if isinstance(module, NormedUpsampler):
        notes.append("features are normalised over channels before upsampling, as these weights expect")
    provenance = {key: metadata.get(key) for key in ("method", "config", "backbone", "provenance")}
    provenance |= {"source": label, "file": path.name, "sha256": file_sha256(path)}
    return PretrainedUpsampler(module, provenance, notes)


def describe_shipped() -> list[dict[str, str]]:
    """Upsamplers of the package and of FeatUp's release, as rows for `featup info`."""
    names = {path: name for method in TRAINABLE for name, path in _alternatives(method).items()}
    rows = [
        {"upsampler": names.get(path, path.name), "method": metadata["method"],
         "for": describe_identity(metadata["backbone"]), "where": "in the package"}
        for path, metadata in _shipped()
    ]  # fmt: skip
    rows += [
        {"upsampler": name, "method": release.method,
         "for": f"{describe_identity(release.backbone)}{', then normalised over channels' if release.normed else ''}",
         "where": "cached" if release.cached.is_file() else "downloads once"}
        for name, release in all_releases().items()
    ]  # fmt: skip
    return rows


def _shipped() -> list[tuple[Path, dict[str, Any]]]:
    """The package's own upsamplers and their metadata, by name of file."""
    found = []
    for path in sorted(SHIPPED.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            ours = "featup" in (file.metadata() or {})  # weights of backbones lie beside them
        if ours:
            found.append((path, read_metadata(path)))
    return found


def _alternatives(method: str) -> dict[str, Path]:
    """The package's files of a method that are taken by name only."""
    return {name: SHIPPED / f"{method}_{name}.safetensors" for name in TRAINABLE[method].alternatives}


def _shipped_for(method: str, backbone: Backbone | None) -> Path:
    """The package's file for a backbone: one that names it, else one for any."""
    named = _alternatives(method).values()
    files = [(path, metadata) for path, metadata in _shipped() if metadata["method"] == method and path not in named]
    for path, metadata in files:
        named = metadata["backbone"]
        if backbone is not None and isinstance(named, dict) and named.get("name") == backbone.resolved:
            return path
    for path, metadata in files:
        if metadata["backbone"] == "any":
            return path
    listed = "; ".join(f"{path.name} for {describe_identity(metadata['backbone'])}" for path, metadata in files)
    name = backbone.name if backbone is not None else "NAME"
    raise WeightsError(
        f"no packaged {method} weights serve {backbone.resolved if backbone is not None else 'an unnamed backbone'}; "
        f"there are: {listed or 'none'}. Give some with --upsampler FILE, or train them: "
        f"featup train --method {method} --backbone {name} --images DIR -o upsampler.safetensors"
    )


def _read_release(release: Release, path: Path) -> tuple[UpsamplerModule, dict[str, Any]]:
    """A release's upsampler, with metadata as a file of ours has them."""
    try:
        checkpoint = read_checkpoint(path, release.kind, release.normed)
    except WeightsError as error:
        raise WeightsError(f"{error}; delete it, so that it is downloaded again") from None
    expected = release.backbone["channels"]
    if checkpoint.channels != expected:
        raise WeightsError(f"{path}: has {checkpoint.channels} channels, not {release.name}'s {expected}; delete it")
    config = {"channels": checkpoint.channels, "norm": checkpoint.normed}
    provenance = {"url": release.url, "license": release.license}
    return checkpoint.upsampler, {
        "method": checkpoint.kind, "config": config, "backbone": release.backbone, "provenance": provenance,
    }  # fmt: skip
