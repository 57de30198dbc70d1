"""The records of the trained baselines, all of which double the grid until it reaches the output."""

from __future__ import annotations

from typing import Any

from featup_kernels.adaptive_conv import OPERATION as ADAPTIVE_CONV

from featup_cli.upsamplers.baselines import config as of
from featup_cli.upsamplers.method import Method, Needs

_FILTER = ADAPTIVE_CONV.name


def _baseline(
    name: str, file: str, config: type[Any], how: str, source: str, kernel: str = "", needs: Needs = Needs.FEATURES
) -> Method:
    """A record; `file` has the class that goes by the name of its settings, and `source` is `Authors (year)`."""
    about = f"doublings by {how} ({source.replace(' (', ', ')}; to be trained"
    network = f"featup_cli.upsamplers.baselines.{file}:{config.__name__.removesuffix('Config')}"
    kernels = (kernel,) if kernel else ()
    return Method(name, about, source, network=network, config=config, needs=needs, kernels=kernels)


_PICTURE = Needs.PICTURE
METHODS = (
    _baseline("carafe", "carafe", of.CARAFEConfig, "kernels that the features predict", "Wang et al. (2019)", _FILTER),
    _baseline("sapa", "sapa", of.SAPAConfig, "likeness of picture and features", "Lu et al. (2022)", _FILTER, _PICTURE),
    _baseline(
        "fade",
        "fade",
        of.FADEConfig,
        "kernels that picture and features predict",
        "Lu et al. (2022)",
        _FILTER,
        _PICTURE,
    ),
    _baseline("dysample", "dysample", of.DySampleConfig, "sampling at predicted points", "Liu et al. (2023)"),
    _baseline("pixelshuffle", "convolution", of.PixelShuffleConfig, "sub-pixel convolution", "Shi et al. (2016)"),
    _baseline("deconv", "convolution", of.DeconvConfig, "transposed convolution", "Noh et al. (2015)"),
    _baseline(
        "resize-conv", "convolution", of.ResizeConvConfig, "interpolation and convolution", "Odena et al. (2016)"
    ),
)
