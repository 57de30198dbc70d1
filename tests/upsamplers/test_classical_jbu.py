from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from featup_cli.upsamplers.api import is_linear
from featup_cli.upsamplers.jbu.classical import RANGE_SIGMA, SPATIAL_SIGMA
from featup_cli.upsamplers.registry import make_upsampler


def mirrored(index: int, size: int) -> int:
    return -index if index < 0 else 2 * (size - 1) - index if index >= size else index


def one_doubling(image: torch.Tensor, feats: torch.Tensor) -> torch.Tensor:
    """The definition, pixel by pixel: `image` [3, 2 h, 2 w], `feats` [C, h, w]."""
    channels, (height, width) = feats.shape[0], image.shape[1:]
    out = torch.zeros(channels, height, width)
    for y in range(height):
        for x in range(width):
            total = 0.0
            for dy in range(-3, 4):
                for dx in range(-3, 4):
                    v, u = mirrored(y + dy, height), mirrored(x + dx, width)
                    color = float((image[:, v, u] - image[:, y, x]).square().sum())
                    distance = (dy**2 + dx**2) / 4  # two output pixels are one of the input
                    weight = math.exp(-color / (2 * RANGE_SIGMA**2) - distance / (2 * SPATIAL_SIGMA**2))
                    out[:, y, x] += weight * feats[:, v // 2, u // 2]
                    total += weight
            out[:, y, x] /= total
    return out


def test_equals_the_loop_over_pixels() -> None:
    image, feats = torch.rand(3, 8, 12) * 0.4, torch.randn(2, 4, 6)
    out = make_upsampler("classical-jbu")(image[None], feats[None], (8, 12))
    torch.testing.assert_close(out[0], one_doubling(image, feats), atol=1e-5, rtol=1e-5)


def test_an_edge_of_the_picture_becomes_an_edge_and_nothing_leaves_the_range() -> None:
    image = torch.full((1, 3, 64, 64), 0.2)
    image[..., 32:] = 0.9
    feats = F.adaptive_avg_pool2d(image[:, :1], 8)
    out = make_upsampler("classical-jbu")(image, feats, (64, 64))
    assert float((out[..., 32] - out[..., 31]).mean()) > 0.6
    assert 0.2 - 1e-5 <= float(out.min()) <= float(out.max()) <= 0.9 + 1e-5


def test_says_that_it_is_linear() -> None:
    assert is_linear(make_upsampler("classical-jbu"))
