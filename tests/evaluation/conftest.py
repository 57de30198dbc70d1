"""Small synthetic data sets: pictures of two colours, and labels that say which."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (64, 96)


def make_picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [H, W, 3] and class ids uint8 [H, W]: a bright box (class 1) on dark ground, a void corner."""
    generator = np.random.default_rng(number)
    labels = np.zeros(SIZE, dtype=np.uint8)
    top, left = generator.integers(4, 24), generator.integers(4, 40)
    labels[top : top + 32, left : left + 40] = 1
    noise = generator.integers(0, 30, (*SIZE, 3))
    pixels = (np.where(labels[..., None] == 1, (220, 190, 40), (20, 40, 90)) + noise).astype(np.uint8)
    labels[:4, :4] = 9
    return pixels, labels


@pytest.fixture
def seg_data(tmp_path: Path) -> Path:
    """images/{train,val} and labels/{train,val} of three and two pictures, and classes.json."""
    data = tmp_path / "data"
    for split, numbers in (("train", range(3)), ("val", range(3, 5))):
        for kind in ("images", "labels"):
            (data / kind / split).mkdir(parents=True)
        for number in numbers:
            pixels, labels = make_picture(number)
            Image.fromarray(pixels).save(data / "images" / split / f"p{number}.png")
            Image.fromarray(labels).save(data / "labels" / split / f"p{number}.png")
    (data / "classes.json").write_text(json.dumps({"classes": ["ground", "box"], "void_id": 9, "thin": ["box"]}))
    return data


@pytest.fixture
def depth_data(tmp_path: Path) -> Path:
    """images/{train,val} and depth/{train,val} of four and two pictures: a box before ground that recedes upwards."""
    data = tmp_path / "slopes"
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        for kind in ("images", "depth"):
            (data / kind / split).mkdir(parents=True)
        for number in numbers:
            pixels, labels = make_picture(number)
            slope = np.linspace(5, 2, SIZE[0])[:, None]
            shade = np.where(labels == 1, 1.0, 0.6 + slope / 10)
            depth = np.where(labels == 1, 1.5, slope)
            depth[labels == 9] = 0
            Image.fromarray((pixels * shade[..., None]).clip(0, 255).astype(np.uint8)).save(
                data / "images" / split / f"p{number}.png"
            )
            np.save(data / "depth" / split / f"p{number}.npy", depth)
    return data
