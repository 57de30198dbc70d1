"""Backbones: networks that turn a picture into a grid of features.

Names are imported on first use, so that `featup_cli.backbones.aliases` can be read without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featup_cli.backbones.aliases import parse_model_args
    from featup_cli.backbones.base import Backbone, BackboneConfig, load_backbone

__all__ = ["Backbone", "BackboneConfig", "load_backbone", "parse_model_args"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = "aliases" if name == "parse_model_args" else "base"
    return getattr(import_module(f"{__name__}.{module}"), name)
