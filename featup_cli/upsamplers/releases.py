"""The upsamplers that the authors of FeatUp released: names, what each is for, and the download."""

from __future__ import annotations

import sys
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from featup_cli.backbones.weights import first_line, is_offline
from featup_cli.errors import WeightsError
from featup_cli.upsamplers.base import Announce

LICENSE = "MIT (the licence of github.com/mhamilton723/FeatUp)"
_ROOT = "https://marhamilresearch4.blob.core.windows.net/feature-upsampling-public/pretrained/"
_TIMEOUT = 10.0  # seconds, to find out whether the server answers


def _vit(name: str, stride: int) -> dict[str, Any]:
    return {"name": name, "channels": 384, "stride": stride, "layer": 11, "norm_applied": True}


# What the features of each were, as `backbone_identity` puts it. CLIP's are not those of the timm model, whose tokens
# have 768 channels before the projection.
_BACKBONES: dict[str, dict[str, Any]] = {
    "dino16": _vit("vit_small_patch16_224.dino", 16),
    "dinov2": _vit("vit_small_patch14_dinov2.lvd142m", 14),
    "clip": {"name": "OpenAI CLIP ViT-B/16 with its tokens projected to text space", "channels": 512, "stride": 16},
    "maskclip": {"name": "MaskCLIP ViT-B/16 (CLIP's last values in text space)", "channels": 512, "stride": 16},
    "vit": _vit("vit_small_patch16_224.augreg_in21k_ft_in1k", 16),
    "resnet50": {
        "name": "resnet50.tv_in1k", "channels": 2048, "stride": 32, "layer": 4, "norm_applied": False,
    },
}  # fmt: skip
_WITHOUT_NORM_ONLY = ("maskclip",)


@dataclass(frozen=True)
class Release:
    """A released checkpoint.

    Attributes:
        name: how it is asked for.
        file_name: of the checkpoint.
        normed: a norm over channels goes before the upsampler.
        backbone: whose features it is for, in the form of `backbone_identity`.
    """

    name: str
    file_name: str
    normed: bool
    backbone: dict[str, Any]

    @property
    def url(self) -> str:
        """Where the checkpoint is."""
        return f"{_ROOT}{'' if self.normed else 'no_norm/'}{self.file_name}"

    @property
    def cached(self) -> Path:
        """Where it is kept: for the normed variant, where torch.hub puts it for FeatUp's own code."""
        # Both variants have one file name on the server; torch.hub would take one for the other.
        name = self.file_name if self.normed else f"no_norm_{self.file_name}"
        return Path(torch.hub.get_dir()) / "checkpoints" / name


def _releases() -> dict[str, Release]:
    found = {}
    for name, backbone in _BACKBONES.items():
        file_name = f"{name}_jbu_stack_cocostuff.ckpt"
        found[name] = Release(name, file_name, name not in _WITHOUT_NORM_ONLY, backbone)
        if found[name].normed:
            found[f"{name}-no-norm"] = Release(f"{name}-no-norm", file_name, False, backbone)
    return found


RELEASES = _releases()
"""By name: `dino16` is the variant with a norm (FeatUp's own default), `dino16-no-norm` the other one."""


def release_of_file(file_name: str, channels: int) -> Release | None:
    """The release that a file with the server's name is, whatever its variant; None for other files."""
    known = (r for r in RELEASES.values() if r.file_name == file_name.removeprefix("no_norm_"))
    return next((r for r in known if r.backbone["channels"] == channels), None)


def fetch(release: Release, offline: bool = False, announce: Announce | None = None) -> Path:
    """The file of a release, downloaded to torch's cache (TORCH_HOME) unless it is there.

    Args:
        release: which.
        offline: never use the network.
        announce: told of a download and its size; None for silence, without a progress bar.
    Raises:
        WeightsError: it is not cached and can't be had.
    """
    target = release.cached
    if target.is_file():
        return target
    if offline or is_offline():
        raise _unavailable(release, "the network is switched off")
    try:
        size = _remote_size(release.url)
        if announce is not None:
            announce(f"downloading upsampler {release.name} ({size}) from {release.url} to {target}")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Writes to a file beside the target and renames it when it is whole.
        show_bar = announce is not None and sys.stderr.isatty()
        torch.hub.download_url_to_file(release.url, str(target), progress=show_bar)
    except (OSError, HTTPException) as error:  # of the disk or the network: urllib's errors are OSErrors
        raise _unavailable(release, first_line(error)) from None
    return target


def _remote_size(url: str) -> str:
    request = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        length = response.headers.get("Content-Length")
    return f"{int(length) / 1e6:.0f} MB" if length else "of unknown size"


def _unavailable(release: Release, reason: str) -> WeightsError:
    return WeightsError(
        f"upsampler {release.name} can't be had: {reason}, and it is not in {release.cached.parent}. Ways out: connect "
        f"once so that it is cached; fetch {release.url} elsewhere and put it there as {release.cached.name}; or take "
        "--upsampler auto, which needs no network"
    )
