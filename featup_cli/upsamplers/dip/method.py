"""The record of the deep image prior."""

from __future__ import annotations

from featup_cli.upsamplers.dip.config import DIPConfig
from featup_cli.upsamplers.method import Method, Needs

METHOD = Method(
    "dip",
    "fits a deep image prior to the features (Ulyanov et al., 2018); half a minute a picture on a CPU",
    "Ulyanov et al. (2018)",
    "featup_cli.upsamplers.dip.upsampler:build",
    config=DIPConfig,
    needs=Needs.FEATURES,
    per_picture=True,
)
