"""The records of joint bilateral upsampling: the learned stack, and the classical one."""

from __future__ import annotations

from featup_kernels.adaptive_conv import OPERATION as ADAPTIVE_CONV
from featup_kernels.range_taps import OPERATION as RANGE_TAPS
from featup_kernels.resampled_conv import OPERATION as RESAMPLED_CONV

from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.method import Import, Method

_KERNELS = (ADAPTIVE_CONV.name, RANGE_TAPS.name, RESAMPLED_CONV.name)


def _always(config: JBUConfig) -> bool:
    """Weights see the picture only."""
    return True


CLASSICAL = Method(
    "classical-jbu",
    "joint bilateral upsampling by fixed Gaussians (Kopf et al., 2007); nothing is learned",
    "Kopf et al. (2007)",
    "featup_cli.upsamplers.jbu.classical:build",
    kernels=_KERNELS,
)
RELEASED = Import(
    kind="jbu-released",
    telling="up1.range_temp",
    read="featup_cli.upsamplers.jbu.imported:read",
    network="featup_cli.upsamplers.jbu.released:ReleasedJBU",
)
JBU = Method(
    "jbu",
    "one pass of a joint bilateral stack, for every backbone; packaged: a colour kernel behind a sharpening, six "
    "numbers tuned, not trained; --upsampler paper: FeatUp's, trained",
    "FeatUp, section 3.2",
    network="featup_cli.upsamplers.jbu.upsampler:JBUUpsampler",
    config=JBUConfig,
    any_backbone=_always,
    kernels=_KERNELS,
    imports=(RELEASED,),
    alternatives=("paper",),
    presets="featup_cli.upsamplers.jbu.config:PRESETS",
    releases="featup_cli.upsamplers.jbu.releases:RELEASES",
)
