"""The record of implicit FeatUp."""

from __future__ import annotations

from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.method import Method, Needs

METHOD = Method(
    "implicit",
    "fits implicit FeatUp to the picture from jittered views",
    "FeatUp, sections 3 to 3.3",
    "featup_cli.upsamplers.implicit.upsampler:build",
    config=ImplicitConfig,
    needs=Needs.BACKBONE,
    per_picture=True,
    fits_model=True,
)
