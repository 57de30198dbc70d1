"""The record of zero-shot super-resolution."""

from __future__ import annotations

from featup_cli.upsamplers.method import Method, Needs
from featup_cli.upsamplers.zssr.config import ZSSRConfig

METHOD = Method(
    "zssr",
    "trains a network on the picture's own features at half size (Shocher et al., 2018); a minute a picture on a CPU",
    "Shocher et al. (2018)",
    "featup_cli.upsamplers.zssr.upsampler:build",
    config=ZSSRConfig,
    needs=Needs.FEATURES,
    per_picture=True,
)
