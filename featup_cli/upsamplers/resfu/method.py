"""The record of ReSFU."""

from __future__ import annotations

from featup_kernels.neighbor_mix import OPERATION as NEIGHBOR_MIX

from featup_cli.upsamplers.method import Import, Method
from featup_cli.upsamplers.resfu.config import ReSFUConfig


def _any_backbone(config: ReSFUConfig) -> bool:
    """Principal components serve features with any number of channels; a projection is for one."""
    return config.key == "components"


METHOD = Method(
    "resfu",
    "one pass that mixes neighbours by learned similarity; packaged weights serve every backbone",
    "ReSFU, section 4",
    network="featup_cli.upsamplers.resfu.upsampler:ReSFU",
    config=ReSFUConfig,
    any_backbone=_any_backbone,
    kernels=(NEIGHBOR_MIX.name,),
    imports=(Import("resfu", "norm_x.weight", "featup_cli.upsamplers.resfu.imported:read"),),
)
