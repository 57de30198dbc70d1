"""The record of `tiny`, the embedded backbone."""

from __future__ import annotations

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.loader import Alias, Loader
from featup_cli.core.errors import UsageError


def check(config: BackboneConfig) -> None:
    """Raise UsageError for settings that `tiny` doesn't have."""
    if config.model_args:
        raise UsageError(f"tiny takes no --backbone-arg, but got: {', '.join(config.model_args)}")
    if config.layer not in (None, 0, -1):
        raise UsageError(f"layer {config.layer} is out of range: tiny has one, 0 (or -1)")


LOADER = Loader(
    "tiny",
    "featup_cli.backbones.tiny.network:load",
    {"tiny": Alias("tiny", "embedded 1.6 M parameter convnet, stride 16; needs no download")},
    advice="for richer features: --backbone dinov2 (downloads weights; `featup info` lists more)",
    recognize="featup_cli.backbones.tiny.network:recognize",
    check="featup_cli.backbones.tiny.loader:check",
)
