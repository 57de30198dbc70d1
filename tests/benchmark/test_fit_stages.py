from __future__ import annotations

from pathlib import Path

from benchmarks.gpu.fit_stages import time_fit_stages
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.engine.pipeline import Pipeline
from featup_cli.engine.settings import Upsampling
from featup_cli.upsamplers.implicit.config import ImplicitConfig


def test_the_stages_are_those_of_the_main_job(photo: Path) -> None:
    config = ImplicitConfig(views=8, heldout_views=2, max_steps=4, tokens=32, hidden=16, components=8)
    backbone = load_backbone(BackboneConfig("tiny"))
    stages = time_fit_stages(photo, backbone, config, seed=3, resize=64)
    settings = Upsampling(method="implicit", implicit=config, resize=64, seed=3, device="cpu")
    result = Pipeline(settings, backbone).run(photo)
    assert stages["scores"] == result.scores
    assert stages["facts"] == result.provenance["facts"]
    assert list(stages["network_size"]) == result.provenance["network_size"]
    assert list(stages["seconds"]) == ["load", "views", "backbone", "pca", "fit", "describe", "render", "copy"]
    assert all(seconds >= 0 for seconds in stages["seconds"].values())
