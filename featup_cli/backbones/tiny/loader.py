"""The record of `tiny`, the embedded backbone."""

from __future__ import annotations

from featup_cli.backbones.loader import Alias, Loader

LOADER = Loader(
    "tiny",
    "featup_cli.backbones.tiny.network:load",
    {"tiny": Alias("tiny", "embedded 1.6 M parameter convnet, stride 16; needs no download")},
    advice="for richer features: --backbone dinov2 (downloads weights; `featup info` lists more)",
    recognize="featup_cli.backbones.tiny.network:recognize",
)
