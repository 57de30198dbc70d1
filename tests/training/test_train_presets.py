"""`featup train --preset paper`: table 7 of FeatUp, right column, value by value, and in the record of a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from featup_cli.cli.app import app
from featup_cli.cli.train import parse_settings
from featup_cli.core.errors import UsageError
from featup_cli.training.config import PRESETS, TrainConfig
from featup_cli.upsamplers.baselines.config import CARAFEConfig
from featup_cli.upsamplers.jbu.config import PRESETS as JBU_PRESETS

TABLE_7 = {
    "batch": 4,  # Num Images
    "jitters": 2,  # Num Jitters Per Image
    "downsampler": "attention",
    "optimizer": "nadam",
    "learning_rate": 0.001,
    "crop_size": 224,  # Image Load Size
    "min_scale": 1.0,  # of the picture, whose short side it is
    "projection": 30,  # Projection Dim
    "steps": 2000,  # Training Steps
    "max_pad": 30.0,  # Max Transform Padding
    "max_zoom": 2.0,  # Max Transform Zoom
    "kernel_size": 16.0,
    "tv_weight": 0.0,  # Total Variation Weight
}
SECTION_3 = {
    "target": "views",
    "flips": True,  # "pads, zooms, crops, horizontal flips"
    "uncertainty": True,  # equation 1
    "learn_downsampler": True,  # section 3.1
    "magnitude_weight": 0.0,  # of the implicit network only
    "schedule": "constant",  # none is named, nor any of the next six
    "warmup": 0,
    "weight_decay": 0.0,
    "clip": 0.0,
    "average": 0.0,
    "select": "last",
    "downsampler_rate": 1.0,
    "freeze": "",
    "pixels_per_token": 16,  # 14x14 tokens to 224x224 (section 4)
    "positions": 256,  # every pixel of a window of 16x16
    "precision": "float32",
}
LEFT_OPEN = {"views": 2, "crops": 1, "zoom_share": 0.5, "kernel_width": 0.5}
NO_EFFECT = {
    "tokens": 196,
    "variation": "magnitudes",
    "heldout_share": 0.05,
    "check_interval": 100,
    "check_tokens": 196,
}
"""Not read with `jitters`, without a total variation, and by the checks alone, which choose nothing."""


def test_the_preset_is_table_7_and_what_it_leaves_open_is_named() -> None:
    assert asdict(PRESETS["paper"]) == TABLE_7 | SECTION_3 | LEFT_OPEN | NO_EFFECT
    assert PRESETS["default"] == TrainConfig()


def test_settings_go_above_the_preset_and_other_methods_keep_their_own() -> None:
    config, upsampler = parse_settings("jbu", "paper", ["steps=7", "upsampler.radius=2"])
    assert (config.steps, config.optimizer, upsampler.radius, upsampler.key_size) == (7, "nadam", 2, 30)
    assert parse_settings("jbu", "paper", [])[1] == JBU_PRESETS["paper"]
    assert parse_settings("carafe", "paper", []) == (PRESETS["paper"], CARAFEConfig())
    assert parse_settings("jbu", "default", []) == (TrainConfig(), JBU_PRESETS["default"])
    with pytest.raises(UsageError, match=r"jitters=3: must lie between 0 and 2"):
        parse_settings("jbu", "paper", ["jitters=3"])


def test_a_run_records_the_preset(pictures: Path, tmp_path: Path) -> None:
    small = {"steps": 1, "crop_size": 32, "batch": 1}
    output = tmp_path / "up.safetensors"
    arguments = ["train", "--preset", "paper", "--images", str(pictures), "-o", str(output), "-q"]
    arguments += [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "up.run" / "config.json").read_text())
    assert record["training"] == TABLE_7 | SECTION_3 | LEFT_OPEN | NO_EFFECT | small
    assert record["upsampler"] == asdict(JBU_PRESETS["paper"])
