"""Upsamplers that `featup train` makes, by their settings; free of torch, so that `--help` can list them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_cli.upsamplers.baselines.config import (
    CARAFEConfig,
    DeconvConfig,
    DySampleConfig,
    FADEConfig,
    PixelShuffleConfig,
    ResizeConvConfig,
    SAPAConfig,
)
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.resfu.config import ReSFUConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIGS: dict[str, type[DataclassInstance]] = {
    "jbu": JBUConfig,
    "resfu": ReSFUConfig,
    "carafe": CARAFEConfig,
    "sapa": SAPAConfig,
    "fade": FADEConfig,
    "dysample": DySampleConfig,
    "pixelshuffle": PixelShuffleConfig,
    "deconv": DeconvConfig,
    "resize-conv": ResizeConvConfig,
}
"""Settings of each method; `featup_cli.upsamplers.weights` has the modules."""


def serves_every_backbone(config: DataclassInstance) -> bool:
    """Whether weights with these settings fit features of any backbone, with any number of channels."""
    return isinstance(config, JBUConfig) or (isinstance(config, ReSFUConfig) and config.key == "components")


def method_of(config: DataclassInstance) -> str:
    """The method that settings are of."""
    return next(method for method, kind in CONFIGS.items() if type(config) is kind)
