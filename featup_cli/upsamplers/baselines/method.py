"""The records of the trained baselines, all of which double the grid until it reaches the output."""

from __future__ import annotations

from featup_cli.upsamplers.baselines import config
from featup_cli.upsamplers.method import Method, Needs

_HERE = "featup_cli.upsamplers.baselines"

METHODS = (
    Method(
        "carafe",
        "doublings by kernels that the features predict (Wang et al., 2019); to be trained",
        "Wang et al. (2019)",
        network=f"{_HERE}.carafe:CARAFE",
        config=config.CARAFEConfig,
        needs=Needs.FEATURES,
        kernels=("adaptive_conv",),
    ),
    Method(
        "sapa",
        "doublings by likeness of picture and features (Lu et al., 2022); to be trained",
        "Lu et al. (2022)",
        network=f"{_HERE}.sapa:SAPA",
        config=config.SAPAConfig,
        kernels=("adaptive_conv",),
    ),
    Method(
        "fade",
        "doublings by kernels that picture and features predict (Lu et al., 2022); to be trained",
        "Lu et al. (2022)",
        network=f"{_HERE}.fade:FADE",
        config=config.FADEConfig,
        kernels=("adaptive_conv",),
    ),
    Method(
        "dysample",
        "doublings by sampling at predicted points (Liu et al., 2023); to be trained",
        "Liu et al. (2023)",
        network=f"{_HERE}.dysample:DySample",
        config=config.DySampleConfig,
        needs=Needs.FEATURES,
    ),
    Method(
        "pixelshuffle",
        "doublings by sub-pixel convolution (Shi et al., 2016); to be trained",
        "Shi et al. (2016)",
        network=f"{_HERE}.pixelshuffle:PixelShuffle",
        config=config.PixelShuffleConfig,
        needs=Needs.FEATURES,
    ),
    Method(
        "deconv",
        "doublings by transposed convolution (Noh et al., 2015); to be trained",
        "Noh et al. (2015)",
        network=f"{_HERE}.deconv:Deconv",
        config=config.DeconvConfig,
        needs=Needs.FEATURES,
    ),
    Method(
        "resize-conv",
        "doublings by interpolation and convolution (Odena et al., 2016); to be trained",
        "Odena et al. (2016)",
        network=f"{_HERE}.resize_conv:ResizeConv",
        config=config.ResizeConvConfig,
        needs=Needs.FEATURES,
    ),
)
