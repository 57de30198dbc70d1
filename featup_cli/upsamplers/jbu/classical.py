"""Classical joint bilateral upsampling: fixed Gaussians of position and colour."""

from __future__ import annotations

from dataclasses import asdict

from featup_cli.upsamplers.attached import PretrainedUpsampler
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler
from featup_cli.upsamplers.method import Making

RANGE_SIGMA = 0.1  # of the Gaussian of colour differences, in units of intensity
SPATIAL_SIGMA = 1.0  # of the Gaussian of distance, in pixels of a stage's input

CLASSICAL = JBUConfig(
    mlp=False, range_kernel="euclidean", temperature=1 / RANGE_SIGMA**2, temperature_growth=1.0,
    # A stage doubles the resolution, so that 3 pixels of its output, half a window, are 1.5 of its input.
    spatial_width=SPATIAL_SIGMA / 1.5, resize="nearest", sharpen_lr=0.0, sharpen_lr_wide=0.0,
)  # fmt: skip


def build(making: Making) -> PretrainedUpsampler:
    """Joint bilateral upsampling (Kopf et al., 2007) in doublings; nothing is learned.

    Every output pixel of a stage is the mean of the input's pixels in its window, weighted by a Gaussian of their
    distance and one of the difference of colours: linear in the features, and within their range.
    """
    return PretrainedUpsampler(JBUUpsampler(CLASSICAL), {"method": making.method.name, "config": asdict(CLASSICAL)}, [])
