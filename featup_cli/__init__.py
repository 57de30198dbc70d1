"""Features per pixel from any vision backbone.

    import featup_cli as featup
    result = featup.upsample("img.jpg", backbone="tiny", method="implicit")
    result.features          # [C, H, W]

The public names are loaded on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featup_cli._version import __version__

if TYPE_CHECKING:
    from featup_cli.backbones import Backbone, BackboneConfig, load_backbone
    from featup_cli.batch.run import upsample_many
    from featup_cli.config import ImplicitConfig
    from featup_cli.export import export_features
    from featup_cli.io.mapped import MappedFeatures, open_features
    from featup_cli.io.tensors import FeatureFile, load_features
    from featup_cli.pipeline import Output, Upsampling, upsample
    from featup_cli.rendering import render
    from featup_cli.result import Result
    from featup_cli.training.config import TrainConfig
    from featup_cli.training.run import Training, train
    from featup_cli.upsamplers.base import make_upsampler
    from featup_cli.upsamplers.weights import load_upsampler, save_upsampler
    from featup_cli.visualization import visualize

_HOMES = {
    "Backbone": "featup_cli.backbones",
    "BackboneConfig": "featup_cli.backbones",
    "FeatureFile": "featup_cli.io.tensors",
    "ImplicitConfig": "featup_cli.config",
    "MappedFeatures": "featup_cli.io.mapped",
    "Output": "featup_cli.pipeline",
    "Result": "featup_cli.result",
    "TrainConfig": "featup_cli.training.config",
    "Training": "featup_cli.training.run",
    "Upsampling": "featup_cli.pipeline",
    "export_features": "featup_cli.export",
    "load_backbone": "featup_cli.backbones",
    "load_features": "featup_cli.io.tensors",
    "load_upsampler": "featup_cli.upsamplers.weights",
    "make_upsampler": "featup_cli.upsamplers.base",
    "open_features": "featup_cli.io.mapped",
    "render": "featup_cli.rendering",
    "save_upsampler": "featup_cli.upsamplers.weights",
    "train": "featup_cli.training.run",
    "upsample": "featup_cli.pipeline",
    "upsample_many": "featup_cli.batch.run",
    "visualize": "featup_cli.visualization",
}

__all__ = [
    "Backbone", "BackboneConfig", "FeatureFile", "ImplicitConfig", "MappedFeatures", "Output", "Result",
    "TrainConfig", "Training", "Upsampling", "__version__", "export_features", "load_backbone", "load_features",
    "load_upsampler", "make_upsampler", "open_features", "render", "save_upsampler", "train", "upsample",
    "upsample_many", "visualize",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'featup_cli' has no attribute {name!r}")
