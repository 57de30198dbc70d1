"""The record of the guided filter."""

from __future__ import annotations

from featup_cli.upsamplers.method import Method

METHOD = Method(
    "guided",
    "guided filter: features as local linear functions of colour",
    "He et al. (2010); fast variant (2015)",
    "featup_cli.upsamplers.guided.upsampler:build",
)
