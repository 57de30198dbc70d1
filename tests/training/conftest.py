"""A folder of small pictures, and settings that train in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featup_cli.training.config import TrainConfig, Training
from featup_cli.upsamplers.jbu.config import JBUConfig


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six different pictures of about 80 pixels in a folder and one below it."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(generator.integers(0, 255, (5, 7, 3), dtype=np.uint8))
        name = folder / ("more" if number % 2 else ".") / f"{number}.png"
        coarse.resize((96, 72 + number), Image.Resampling.BICUBIC).save(name)
    return folder


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(
        crop_size=64, views=2, steps=6, batch=2, tokens=8, positions=4, projection=4, pixels_per_token=2,
        check_interval=3, check_tokens=8, warmup=2, average=0.5,
    )  # fmt: skip


@pytest.fixture
def training(pictures: Path, tmp_path: Path, config: TrainConfig) -> Training:
    return Training(
        [pictures], tmp_path / "out" / "jbu.safetensors", JBUConfig(radius=1, key_size=4), config=config,
        cache=tmp_path / "cache", device="cpu",
    )  # fmt: skip
