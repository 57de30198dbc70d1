"""Upsamplers with weights: found by `auto`, a released name or a file, checked, and ready for the pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featup_cli.backbones.base import Backbone
from featup_cli.config import METHODS_WITH_WEIGHTS
from featup_cli.errors import ShapeError, UsageError, WeightsError
from featup_cli.io.digest import file_sha256
from featup_cli.upsamplers.base import Announce, Details, check_inputs, without_gradients
from featup_cli.upsamplers.checkpoints import read_checkpoint
from featup_cli.upsamplers.guidance import like_features
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler
from featup_cli.upsamplers.normed import NormedUpsampler
from featup_cli.upsamplers.releases import LICENSE, RELEASES, Release, fetch
from featup_cli.upsamplers.weights import check_backbone, describe_identity, load_upsampler, read_metadata

SHIPPED = Path(__file__).parents[1] / "weights"
"""Where the package keeps its own weights."""


class PretrainedUpsampler:
    """A feed-forward upsampler behind the call that all share (`Upsampler`); it follows the features' device.

    Attributes:
        module: the network, in eval mode.
        provenance: file, SHA-256, method, config and backbone of the weights, as JSON values.
        linear_in_features: the result is one linear map of every channel.
    """

    def __init__(self, module: nn.Module, provenance: dict[str, Any], notes: list[str]) -> None:
        self.module = module.eval()
        self.provenance = provenance
        self.linear_in_features = isinstance(module, JBUUpsampler)
        self.details = Details(notes=notes)

    @torch.no_grad()
    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Upsample [B, C, h, w] to [B, C, *output_size]; arguments and errors as for every `Upsampler`."""
        return self._module_for(image, lr_feats, output_size)(image.to(lr_feats), lr_feats, output_size)

    @without_gradients
    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int], rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """The result of the call in bands of rows; see `Upsampler.bands`."""
        module = self._module_for(image, lr_feats, output_size)
        yield from module.bands(like_features(image, lr_feats), lr_feats, output_size, rows, start)  # type: ignore[operator]

    def band_bytes(self, lr_shape: Sequence[int], output_size: tuple[int, int], rows: int) -> int:
        """As the network itself estimates; see `Upsampler.band_bytes`."""
        return int(self.module.band_bytes(lr_shape, output_size, rows))  # type: ignore[operator]

    def _module_for(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> nn.Module:
        """The network, on the features' device, once the arguments are checked."""
        check_inputs(image, lr_feats, output_size)
        channels = self.provenance["config"].get("channels")  # none: any number will do
        if channels is not None and lr_feats.shape[1] != channels:
            raise ShapeError(f"lr_feats must be [B, {channels}, h, w] for this upsampler, not {list(lr_feats.shape)}")
        return self.module.to(lr_feats.device)


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
        method: one of `METHODS_WITH_WEIGHTS`.
        source: `auto` for the package's own weights, a name of `RELEASES`, or a file of ours.
        backbone: whose features will be upsampled; None leaves it unchecked.
        allow_other_backbone: accept weights for another backbone with as many channels.
        offline: never use the network.
        announce: told of downloads.
    Raises:
        UsageError: neither a name nor a file, or weights of another method.
        WeightsError: there are none, they can't be read, or they are for another backbone.
    """
    label = str(source)
    if label == "auto":
        path = _shipped_for(method, backbone)
        module, metadata = load_upsampler(path)
        label = f"packaged:{path.name}"
    elif label in RELEASES:
        path = fetch(RELEASES[label], offline, announce)
        module, metadata = _read_release(RELEASES[label], path)
    else:
        path = Path(source)
        if not path.exists() and path.name == label and not path.suffix:
            raise UsageError(f"--upsampler {label}: no such file, and not one of: auto, {', '.join(RELEASES)}")
        module, metadata = load_upsampler(path)
    if metadata["method"].removesuffix("-released") != method:
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
    rows = [
        {"upsampler": path.name, "method": metadata["method"], "for": describe_identity(metadata["backbone"]),
         "where": "in the package"}
        for path, metadata in _shipped()
    ]  # fmt: skip
    rows += [
        {"upsampler": name, "method": "jbu", "for": describe_identity(release.backbone),
         "where": "cached" if release.cached.is_file() else "downloads once"}
        for name, release in RELEASES.items()
    ]  # fmt: skip
    return rows


def _shipped() -> list[tuple[Path, dict[str, Any]]]:
    """The package's own upsamplers and their metadata, by name of file."""
    found = []
    for path in sorted(SHIPPED.glob("*.safetensors")):
        if path.stem.partition("_")[0] in METHODS_WITH_WEIGHTS:  # weights of backbones lie beside them
            found.append((path, read_metadata(path)))
    return found


def _shipped_for(method: str, backbone: Backbone | None) -> Path:
    """The package's file for a backbone: one that names it, else one for any."""
    files = [(path, metadata) for path, metadata in _shipped() if metadata["method"] == method]
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


def _read_release(release: Release, path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A release's upsampler, with metadata as a file of ours has them."""
    try:
        checkpoint = read_checkpoint(path, "jbu-released", release.normed)
    except WeightsError as error:
        raise WeightsError(f"{error}; delete it, so that it is downloaded again") from None
    expected = release.backbone["channels"]
    if checkpoint.channels != expected:
        raise WeightsError(f"{path}: has {checkpoint.channels} channels, not {release.name}'s {expected}; delete it")
    config = {"channels": checkpoint.channels, "norm": checkpoint.normed}
    provenance = {"url": release.url, "license": LICENSE}
    return checkpoint.upsampler, {
        "method": checkpoint.method, "config": config, "backbone": release.backbone, "provenance": provenance,
    }  # fmt: skip
