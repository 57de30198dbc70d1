"""Features per pixel from any vision backbone.

    import featup_cli as featup
    result = featup.upsample("photo.jpg", method="jbu")
    features = result.features.numpy()  # float32 [C, H, W]

Public names are loaded on first use, so importing this package is cheap.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from featup_cli._version import __version__

if TYPE_CHECKING:
    from featup_cli.backbones.api import Backbone as Backbone
    from featup_cli.backbones.config import BackboneConfig as BackboneConfig
    from featup_cli.backbones.registry import load_backbone as load_backbone
    from featup_cli.batch.run import upsample_many as upsample_many
    from featup_cli.benchmarking.run import benchmark as benchmark
    from featup_cli.core.errors import FeatUpError as FeatUpError
    from featup_cli.engine.pipeline import upsample as upsample
    from featup_cli.engine.regions import Regions as Regions
    from featup_cli.engine.regions import pool_regions as pool_regions
    from featup_cli.engine.render import render as render
    from featup_cli.engine.result import Result as Result
    from featup_cli.engine.settings import Output as Output
    from featup_cli.engine.settings import Upsampling as Upsampling
    from featup_cli.evaluation.comparison import compare as compare
    from featup_cli.evaluation.retrieval.matches import find_matches as find_matches
    from featup_cli.evaluation.run import evaluate as evaluate
    from featup_cli.exporting.run import export as export
    from featup_cli.exporting.run import export_features as export_features
    from featup_cli.io.features import FeatureFile as FeatureFile
    from featup_cli.io.features import load_features as load_features
    from featup_cli.io.mapped import MappedFeatures as MappedFeatures
    from featup_cli.io.mapped import open_features as open_features
    from featup_cli.pictures.read import Picture as Picture
    from featup_cli.pictures.read import load_image as load_image
    from featup_cli.pictures.visualize import visualize as visualize
    from featup_cli.training.config import TrainConfig as TrainConfig
    from featup_cli.training.config import Training as Training
    from featup_cli.training.run import train as train
    from featup_cli.upsamplers.implicit.config import ImplicitConfig as ImplicitConfig
    from featup_cli.upsamplers.registry import METHODS as METHODS
    from featup_cli.upsamplers.registry import make_upsampler as make_upsampler
    from featup_cli.upsamplers.weights.file import load_upsampler as load_upsampler
    from featup_cli.upsamplers.weights.file import save_upsampler as save_upsampler
    from featup_cli.upsamplers.weights.imported import read_checkpoint as read_checkpoint

_NAMES = {
    "featup_cli.backbones.api": "Backbone",
    "featup_cli.backbones.config": "BackboneConfig",
    "featup_cli.backbones.registry": "load_backbone",
    "featup_cli.batch.run": "upsample_many",
    "featup_cli.core.errors": "FeatUpError",
    "featup_cli.engine.pipeline": "upsample",
    "featup_cli.engine.settings": "Output Upsampling",
    "featup_cli.engine.regions": "Regions pool_regions",
    "featup_cli.engine.render": "render",
    "featup_cli.engine.result": "Result",
    "featup_cli.benchmarking.run": "benchmark",
    "featup_cli.evaluation.comparison": "compare",
    "featup_cli.evaluation.retrieval.matches": "find_matches",
    "featup_cli.evaluation.run": "evaluate",
    "featup_cli.exporting.run": "export export_features",
    "featup_cli.io.mapped": "MappedFeatures open_features",
    "featup_cli.io.features": "FeatureFile load_features",
    "featup_cli.pictures.read": "Picture load_image",
    "featup_cli.pictures.visualize": "visualize",
    "featup_cli.training.config": "TrainConfig Training",
    "featup_cli.training.run": "train",
    "featup_cli.upsamplers.implicit.config": "ImplicitConfig",
    "featup_cli.upsamplers.registry": "METHODS make_upsampler",
    "featup_cli.upsamplers.weights.file": "load_upsampler save_upsampler",
    "featup_cli.upsamplers.weights.imported": "read_checkpoint",
}
# GNU OpenMP's threads wait for each other by spinning for milliseconds. Beside another busy process they do little
# else, and work in many small parallel regions takes three times as long. A spin as short as this costs next to nothing
# on an idle machine. The variable counts when OpenMP is loaded, with torch.
if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "1500"

_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'featup_cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
