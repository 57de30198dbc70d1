"""The records of the trained baselines."""

from __future__ import annotations

from typing import Any

from featup_kernels.adaptive_conv import OPERATION as ADAPTIVE_CONV

from featup_cli.upsamplers.baselines import config as of
from featup_cli.upsamplers.method import Method, Needs

_FILTER = ADAPTIVE_CONV.name


def _trained(name: str, file: str, config: type[Any], how: str, source: str, **more: Any) -> Method:
    """A record; `file` has the class that goes by the name of its settings, and `source` is `Authors (year)`."""
    about = f"{how} ({source.replace(' (', ', ')}; to be trained"
    network = f"featup_cli.upsamplers.baselines.{file}:{config.__name__.removesuffix('Config')}"
    return Method(name, about, source, network=network, config=config, **{"needs": Needs.FEATURES} | more)


def _doubling(name: str, file: str, config: type[Any], how: str, source: str, kernel: str = "", **more: Any) -> Method:
    """The record of a method that doubles the grid."""
    return _trained(
        name, file, config, f"doublings by {how}", source, **{"kernels": (kernel,) if kernel else ()} | more
    )


_PICTURE = Needs.PICTURE
_FULL = {"full": True}
METHODS = (
    _doubling("carafe", "carafe", of.CARAFEConfig, "kernels that the features predict", "Wang et al. (2019)", _FILTER),
    _doubling(
        "sapa", "sapa", of.SAPAConfig, "likeness of picture and features", "Lu et al. (2022)", _FILTER, needs=_PICTURE
    ),
    _doubling(
        "fade",
        "fade",
        of.FADEConfig,
        "kernels that picture and features predict",
        "Lu et al. (2022)",
        _FILTER,
        needs=_PICTURE,
    ),
    _doubling(
        "dysample",
        "dysample",
        of.DySampleConfig,
        "sampling at predicted points",
        "Liu et al. (2023)",
        printed={"style": "pl", "groups": 4},
    ),
    _doubling(
        "pixelshuffle",
        "convolution",
        of.PixelShuffleConfig,
        "sub-pixel convolution",
        "Shi et al. (2016)",
        printed=_FULL,
    ),
    _doubling("deconv", "convolution", of.DeconvConfig, "transposed convolution", "Noh et al. (2015)", printed=_FULL),
    _doubling(
        "resize-conv",
        "convolution",
        of.ResizeConvConfig,
        "interpolation and convolution",
        "Odena et al. (2016)",
        printed=_FULL,
    ),
    _trained(
        "liif",
        "local",
        of.LIIFConfig,
        "a network of the tokens beside each pixel, at any size",
        "Chen et al. (2021)",
        printed={"residual": False},
    ),
    _trained(
        "ifa",
        "local",
        of.IFAConfig,
        "a network of the nearest token and the encoded offset, at any size",
        "Hu et al. (2022)",
        printed={"residual": False},
    ),
    _doubling(
        "pac",
        "pac",
        of.PACConfig,
        "convolution that adapts to the picture",
        "Su et al. (2019)",
        _FILTER,
        needs=_PICTURE,
        printed=_FULL,
    ),
    _trained(
        "dgf",
        "dgf",
        of.DGFConfig,
        "a guided filter whose guidance is learned, at any size",
        "Wu et al. (2018)",
        needs=_PICTURE,
    ),
    _doubling(
        "indexnet",
        "indexnet",
        of.IndexNetConfig,
        "indices that the picture predicts (HIN)",
        "Lu et al. (2022)",
        needs=_PICTURE,
        printed={"index": "sigmoid"},
    ),
    _doubling(
        "a2u",
        "a2u",
        of.A2UConfig,
        "kernels of the picture's affinity",
        "Dai et al. (2021)",
        _FILTER,
        needs=_PICTURE,
    ),
)
