from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.upsamplers.components import output_grid
from featup_cli.upsamplers.dip.config import DIPConfig
from featup_cli.upsamplers.dip.upsampler import DIPUpsampler

SMALL = DIPConfig(width=16, noise_channels=4, levels=3, steps=40, max_pixels=1600)
IMAGE = torch.rand(1, 3, 40, 56)


def smooth_features() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 7), indexing="ij")
    return torch.stack((y, x, y * x, (3 * x).sin(), y**2 + 1))[None]


def test_the_fit_approaches_the_tokens_and_more_steps_bring_it_nearer() -> None:
    feats, errors = smooth_features(), []
    for steps in (2, 10, 60):
        upsampler = DIPUpsampler(replace(SMALL, steps=steps))
        out = upsampler(IMAGE, feats, (40, 56))
        errors.append(upsampler.details.scores["pooled_error"])
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05
    # 40x56 is eight times the grid, the size at which the network runs here: no interpolation in between.
    pooled = F.adaptive_avg_pool2d(out, (5, 7))
    left = (pooled - feats).square().sum() / (feats - feats.mean((2, 3), keepdim=True)).square().sum()
    assert float(left) == pytest.approx(errors[2], rel=0.1)


@pytest.mark.parametrize("output", [(40, 56), (33, 61), (3, 4), (100, 20)])
def test_any_output_size_is_met_exactly(output: tuple[int, int]) -> None:
    upsampler = DIPUpsampler(replace(SMALL, steps=2))
    out = upsampler(IMAGE, smooth_features(), output)
    assert out.shape == (1, 5, *output)
    bands = torch.cat(list(upsampler.bands(IMAGE, smooth_features(), output, 7)), 2)
    torch.testing.assert_close(bands, out, atol=1e-4, rtol=1e-4)
    estimates = [upsampler.band_bytes((1, 5, 5, 7), output, rows) for rows in (1, 2, 40)]
    assert 4 * out.numel() < estimates[-1]
    assert estimates == sorted(estimates)


def test_the_same_seed_gives_the_same_result_and_leaves_the_callers_random_state_alone() -> None:
    config = replace(SMALL, steps=3)
    state = torch.get_rng_state()
    first, again, other = (DIPUpsampler(config, seed)(IMAGE, smooth_features(), (20, 28)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_runs_without_gradients_and_reports_every_step() -> None:
    steps = []
    with torch.no_grad():
        out = DIPUpsampler(replace(SMALL, steps=3), progress=lambda *state: steps.append(state[:3]))(
            IMAGE, smooth_features(), (20, 28)
        )
    assert not out.requires_grad
    assert steps == [("fit", 1, 3), ("fit", 2, 3), ("fit", 3, 3)]


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_the_smallest_grids_are_fitted(grid: tuple[int, int]) -> None:
    feats = torch.randn(1, 3, *grid)
    out = DIPUpsampler(replace(SMALL, steps=2))(IMAGE, feats, (8, 9))
    assert out.isfinite().all()


def test_the_networks_size_is_a_multiple_of_the_grid_within_its_bounds() -> None:
    assert output_grid((14, 14), (224, 224), 128**2) == (112, 112)
    assert output_grid((14, 14), (224, 224), 256**2) == (224, 224)
    assert output_grid((14, 20), (60, 500), 256**2) == (56, 80)
    assert output_grid((14, 14), (14, 14), 128**2) == (28, 28)


def test_wrong_settings_and_several_pictures_are_refused() -> None:
    with pytest.raises(ShapeError, match="one picture at a time"):
        DIPUpsampler(SMALL)(IMAGE.repeat(2, 1, 1, 1), smooth_features().repeat(2, 1, 1, 1), (8, 8))
    for change in ({"steps": 0}, {"width": -1}, {"jitter": -0.1}):
        with pytest.raises(UsageError, match=next(iter(change))):
            replace(SMALL, **change)  # type: ignore[arg-type]
