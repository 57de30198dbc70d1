"""What is shown of ReSFU is what it computes with."""

from __future__ import annotations

import pytest
import torch

from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.inside import trace
from tests.upsamplers.resfu_reference import (
    guidance,
    guided_filter,
    low_res_key,
    low_res_neighbors,
    plain_weights,
    sharpened,
    up,
)
from tests.upsamplers.test_resfu import VARIANTS, make

SIZE, PIXELS = (17, 23), [(0, 0), (16, 3), (8, 12)]


@pytest.mark.parametrize("config", VARIANTS)
def test_the_weights_are_those_that_the_upsampler_applies(config: ReSFUConfig) -> None:
    model = make(config=config).double()
    image, feats = torch.rand(1, 3, 40, 30).double(), torch.randn(1, 6, 4, 6).double()
    inside, result = trace(model, image, feats, SIZE, PIXELS), model(image, feats, SIZE).detach()
    values = sharpened(feats, model.sharpen_lr)
    near = torch.stack([*low_res_neighbors(values, SIZE, config.kernel_size, config.neighbors == "coarse")], 1)[0]
    weights = plain_weights(model, image, feats, SIZE)[0].detach()
    for (row, column), grid in zip(PIXELS, inside.weights, strict=True):
        torch.testing.assert_close(grid.flatten(), weights[:, row, column], atol=1e-9, rtol=1e-9)
        mixed = (grid.flatten()[:, None] * near[:, :, row, column]).sum(0)
        torch.testing.assert_close(mixed, result[0, :, row, column], atol=1e-9, rtol=1e-9)
    assert [*inside.scores] == (["semantic", "detail"] if config.scores == "both" else [config.scores])
    total = sum(inside.scores.values(), torch.zeros(())).masked_fill(inside.weights == 0, -torch.inf)  # outside
    torch.testing.assert_close(total.flatten(1).softmax(1), inside.weights.flatten(1))


def test_the_maps_are_those_of_the_plain_formula() -> None:
    config = VARIANTS[0]
    model, image, feats = make(config=config), torch.rand(1, 3, 40, 30), torch.randn(1, 6, 4, 6)
    inside = trace(model, image, feats, SIZE, PIXELS)
    query = model.q(model.norm_y(guidance(model, image, SIZE))).detach()
    key = up(low_res_key(model, image, feats), SIZE).detach()
    for map, expected in (
        (inside.query, query), (inside.key, key), (inside.aligned, guided_filter(query, key, config))
    ):  # fmt: skip
        torch.testing.assert_close(map, expected[0], atol=1e-4, rtol=1e-4)
    assert inside.smoothed is not None
    assert inside.smoothed.var() < inside.query.var()
