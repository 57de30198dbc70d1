from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.upsamplers.zssr.config import ZSSRConfig
from featup_cli.upsamplers.zssr.upsampler import (
    TURNS,
    Refiner,
    ZSSRUpsampler,
    enlarge,
    halve,
    pair_error,
    project_back,
    turn,
    turn_back,
)

SMALL = ZSSRConfig(width=12, depth=4, steps=40, check_interval=10, max_pixels=1600, back_projections=2)
IMAGE = torch.rand(1, 3, 40, 56)


def discs() -> Tensor:
    """Sharp shapes that repeat, which a network can learn to restore."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    first, second = ((y - 5) ** 2 + (x - 6) ** 2 < 12).float(), ((y - 10) ** 2 + (x - 13) ** 2 < 12).float()
    return torch.stack((first, second, first + 2 * second, 1 - first))[None]


def test_internal_training_lowers_the_error_on_its_own_pair_below_interpolation() -> None:
    feats, upsampler = discs(), ZSSRUpsampler(replace(SMALL, width=24, steps=120))
    upsampler(IMAGE, feats, (32, 40))
    scores = upsampler.details.scores
    assert scores["pair_error"] < 0.9 * scores["pair_error_bicubic"]
    pair = F.interpolate(halve(feats), size=feats.shape[2:], mode="bilinear")
    bilinear, variance = F.mse_loss(pair, feats), feats.sub(feats.mean((2, 3), keepdim=True)).square().mean()
    assert scores["pair_error"] < float(bilinear / variance)


def test_a_training_that_does_not_help_leaves_interpolation() -> None:
    noise = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    upsampler = ZSSRUpsampler(replace(SMALL, learning_rate=10.0, steps=4, check_interval=2, back_projections=0))
    out = upsampler(IMAGE, noise, (12, 14))
    scores = upsampler.details.scores
    assert scores["pair_error"] == scores["pair_error_bicubic"]
    torch.testing.assert_close(out, F.interpolate(noise, scale_factor=2, mode="bicubic"), atol=1e-4, rtol=1e-4)


def test_the_network_starts_as_interpolation_and_is_a_residual_of_convolutions() -> None:
    network, maps = Refiner(SMALL, 3), torch.randn(1, 3, 5, 6)
    assert torch.equal(network(maps), maps)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    expected = maps
    for number, layer in enumerate(network.layers):
        padded = F.pad(expected, (1, 1, 1, 1), mode="replicate")
        expected = F.conv2d(padded, layer.weight, layer.bias)  # type: ignore[arg-type]
        expected = expected.clamp(min=0) if number < len(network.layers) - 1 else expected
    torch.testing.assert_close(network(maps), maps + expected)
    assert len(network.layers) == SMALL.depth
    error = F.mse_loss(network(enlarge(halve(maps), maps)), maps)
    assert pair_error(network, maps) == pytest.approx(float(error.detach()))


def test_back_projection_brings_the_halved_result_nearer() -> None:
    maps = torch.randn(1, 2, 6, 5)
    doubled = F.interpolate(maps, scale_factor=2, mode="nearest")
    errors = [F.mse_loss(halve(project_back(doubled, maps, count)), maps) for count in (0, 1, 5)]
    assert errors[0] > errors[1] > errors[2]


def test_turns_are_eight_and_can_be_undone() -> None:
    maps = torch.randn(1, 1, 3, 4)
    assert len({tuple(turn(maps, number).flatten().tolist()) for number in range(TURNS)}) == 8
    for number in range(TURNS):
        assert torch.equal(turn_back(turn(maps, number), number), maps)


@pytest.mark.parametrize("output", [(40, 56), (33, 61), (3, 4), (100, 20)])
@pytest.mark.parametrize("grid", [(5, 7), (1, 1)])
def test_any_output_size_is_met_exactly(grid: tuple[int, int], output: tuple[int, int]) -> None:
    feats, upsampler = torch.randn(1, 4, *grid), ZSSRUpsampler(replace(SMALL, steps=2))
    out = upsampler(IMAGE, feats, output)
    assert out.shape == (1, 4, *output)
    assert out.isfinite().all()
    bands = torch.cat(list(upsampler.bands(IMAGE, feats, output, 7)), 2)
    torch.testing.assert_close(bands, out, atol=1e-4, rtol=1e-4)
    estimates = [upsampler.band_bytes((1, 4, *grid), output, rows) for rows in (1, 2, 40)]
    assert 4 * out.numel() < estimates[-1]
    assert estimates == sorted(estimates)


def test_the_same_seed_gives_the_same_result_and_leaves_the_callers_random_state_alone() -> None:
    config, state, feats = replace(SMALL, steps=10, check_interval=1), torch.get_rng_state(), discs()
    first, again, other = (ZSSRUpsampler(config, seed)(IMAGE, feats, (32, 40)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad


def test_every_step_of_every_doubling_is_reported() -> None:
    steps = []
    ZSSRUpsampler(replace(SMALL, steps=2), progress=lambda *state: steps.append(state[:3]))(
        IMAGE, torch.randn(1, 3, 5, 7), (20, 28)
    )
    assert steps == [("fit", number, 4) for number in (1, 2, 3, 4)]


def test_wrong_settings_and_several_pictures_are_refused() -> None:
    with pytest.raises(ShapeError, match="zssr fits one picture at a time"):
        ZSSRUpsampler(SMALL)(IMAGE.repeat(2, 1, 1, 1), discs().repeat(2, 1, 1, 1), (8, 8))
    for change in ({"steps": 0}, {"depth": 1}, {"back_projections": -1}, {"min_scale": 2.0}):
        with pytest.raises(UsageError, match=next(iter(change))):
            replace(SMALL, **change)  # type: ignore[arg-type]
