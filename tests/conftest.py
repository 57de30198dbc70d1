"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# Tests must pass on a machine with no model hub in reach, and must not wait for one.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
SHARED = ROOT.parent / "shared"


@pytest.fixture
def samples() -> Path:
    return SAMPLES


@pytest.fixture
def shared_mobilenet() -> Path:
    path = SHARED / "weights" / "mobilenetv2_100.tflite_in1k.safetensors"
    if not path.exists():
        pytest.skip("needs ../shared/weights, which this checkout does not have beside it")
    return path


@pytest.fixture
def shared_camvid() -> Path:
    path = SHARED / "data" / "camvid"
    if not path.exists():
        pytest.skip("needs ../shared/data, which this checkout does not have beside it")
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small, coloured, non-square photograph-like JPEG: 72x96."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    path = tmp_path / "photo.jpg"
    coarse.resize((96, 72), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
