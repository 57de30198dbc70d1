"""Upsamplers that authors released: a record of each, and the download."""

from __future__ import annotations

import sys
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from featup_cli.backbones.hub import is_offline
from featup_cli.core.errors import WeightsError, first_line
from featup_cli.core.progress import Announce
from featup_cli.core.references import resolve
from featup_cli.upsamplers.registry import TRAINABLE

_TIMEOUT = 10.0  # seconds, to find out whether the server answers


@dataclass(frozen=True)
class Release:
    """A released checkpoint.

    Attributes:
        name: how it is asked for.
        method: that it serves.
        kind: form of the checkpoint, as `Import.kind`.
        url: where it is.
        file_name: on the server.
        kept_as: its name in torch's cache.
        normed: a norm over channels goes before the upsampler.
        backbone: whose features it is for, in the form of `backbone_identity`.
        license: for people.
    """

    name: str
    method: str
    kind: str
    url: str
    file_name: str
    kept_as: str
    normed: bool
    backbone: dict[str, Any]
    license: str

    @property
    def cached(self) -> Path:
        """Where it is kept."""
        import torch  # the names above are for the shell's completion too, which doesn't wait for it

        return Path(torch.hub.get_dir()) / "checkpoints" / self.kept_as


def all_releases() -> dict[str, Release]:
    """The releases of all methods, by name."""
    modules = [method.releases for method in TRAINABLE.values() if method.releases]
    return {name: release for module in modules for name, release in resolve(module).items()}


def release_of_file(file_name: str, kind: str, channels: int) -> Release | None:
    """The release that a file with the server's name is, whatever its variant; None for other files or forms."""
    known = (r for r in all_releases().values() if r.file_name == file_name.removeprefix("no_norm_"))
    return next((r for r in known if r.kind == kind and r.backbone["channels"] == channels), None)


def fetch(release: Release, offline: bool = False, announce: Announce | None = None) -> Path:
    """The file of a release, downloaded to torch's cache (TORCH_HOME) unless it is there.

    Args:
        release: which.
        offline: never use the network.
        announce: told of a download and its size; None for silence, without a progress bar.
    Raises:
        WeightsError: it is not cached and is unavailable.
    """
    import torch

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
        f"upsampler {release.name} is unavailable: {reason}, and it is not in {release.cached.parent}. Ways out: "
        f"connect once so that it is cached; fetch {release.url} elsewhere and put it there as {release.cached.name}; "
        "or use --upsampler auto, which needs no network"
    )
