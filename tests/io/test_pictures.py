"""False colours, heat maps, overlays and panels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from featup_cli.core.errors import OutputError, ShapeError
from featup_cli.pictures.layout import Panel, side_by_side
from featup_cli.pictures.panels import (
    fit_colours,
    heatmap,
    overlay,
    panel_size,
    pca_rgb,
    resize_rgb,
    robust_range,
    sample_tokens,
    save_png,
)


def solid(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.uint8(colour), (height, width, 3)).copy()


def test_pca_rgb_scales_and_clips():
    projected = torch.tensor([[-5.0, 0.0, 1.0, 9.0]]).expand(3, 4)[:, None] * torch.tensor([1.0, 1, 0])[:, None, None]
    rgb = pca_rgb(projected, torch.tensor([0.0, -1, 0]), torch.tensor([1.0, 1, 0]))
    assert rgb.dtype == np.uint8
    assert rgb.shape == (1, 4, 3)
    assert rgb[0, :, 0].tolist() == [0, 0, 255, 255]
    assert rgb[0, :, 1].tolist() == [0, 128, 255, 255]
    assert set(rgb[0, :, 2].tolist()) == {128}  # no range: the middle
    with pytest.raises(ShapeError):
        pca_rgb(torch.zeros(4, 2, 2), torch.zeros(3), torch.ones(3))


def test_robust_range_leaves_outliers_out():
    samples = torch.linspace(0, 1, 1001).repeat(2, 1)
    samples[0, 0], samples[1, -1] = -1e6, 1e6
    low, high = robust_range(samples)
    torch.testing.assert_close(low, torch.full((2,), 0.01), atol=2e-3, rtol=0)
    torch.testing.assert_close(high, torch.full((2,), 0.99), atol=2e-3, rtol=0)


def test_heatmap_grows_lighter_and_takes_a_range():
    ramp = heatmap(torch.linspace(0, 1, 64)[None])
    lightness = ramp[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).all()
    assert ramp[0, 0].max() < 8
    assert ramp[0, -1].min() > 180
    assert heatmap(torch.tensor([[0.5]]), 0, 1)[0, 0].tolist() == [181, 54, 122]
    assert heatmap(torch.full((2, 3), 7.0)).shape == (2, 3, 3)
    assert heatmap(torch.full((2, 3), 7.0))[0, 0].tolist() == [181, 54, 122]
    with pytest.raises(ShapeError):
        heatmap(torch.zeros(1, 2, 3))


def test_enlarged_tokens_stay_squares():
    tokens = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_rgb(tokens, (12, 16)), tokens.repeat(4, 0).repeat(4, 1))
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert 110 < resize_rgb(board, (8, 8)).mean() < 145
    assert np.ptp(resize_rgb(board, (8, 8))) < 60


def test_overlay_blends():
    image = solid(4, 6, (100, 0, 200))
    assert overlay(solid(2, 3, (0, 100, 200)), image).shape == (4, 6, 3)
    assert overlay(solid(2, 3, (0, 100, 200)), image)[0, 0].tolist() == [50, 50, 200]
    np.testing.assert_array_equal(overlay(solid(2, 3, (0, 100, 200)), image, alpha=0), image)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((300, 400), (300, 400)), ((56, 56), (224, 224)), ((3000, 2000), (1024, 683)), ((500, 4000), (256, 2048))],
)
def test_panel_size(size, shown):
    assert panel_size(size) == shown


@pytest.mark.parametrize("size", [(1, 1), (3, 4000), (4000, 3), (1, 100_000)])
def test_extreme_panels_stay_of_bearable_size(size):
    height, width = panel_size(size)
    assert 1 <= height <= 1024
    assert 1 <= width <= 2048
    canvas = side_by_side([Panel("A", solid(*size, (200, 0, 0))), Panel("B", solid(2, 2, (0, 0, 200)))])
    assert canvas.shape[0] < 1200
    assert canvas.shape[1] < 5000


def test_panels_are_aligned_titled_and_apart():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sizes = [(240, 320), (12, 16), (24, 24)]
    canvas = side_by_side(
        [Panel(f"Panel {i}", solid(*size, c)) for i, (size, c) in enumerate(zip(sizes, colours, strict=True))]
    )
    spans = []
    for colour, (h, w) in zip(colours, sizes, strict=True):
        rows, columns = np.nonzero((canvas == colour).all(-1))
        assert rows.max() - rows.min() + 1 == 240
        assert columns.max() - columns.min() + 1 == 240 * w // h
        assert len(rows) == 240 * (240 * w // h)
        spans.append((rows.min(), rows.max(), columns.min(), columns.max()))
    assert len({span[:2] for span in spans}) == 1
    gaps = [after[2] - before[3] for before, after in pairwise(spans)]
    assert gaps[0] == gaps[1] >= 10
    assert (canvas[0] == 255).all()
    assert (canvas[:, 0] == 255).all()
    for top, _, left, right in spans:  # every title has ink, above its own panel
        assert (canvas[: top - 2, left : right + 1].min(-1) < 100).any()
    with pytest.raises(ShapeError):
        side_by_side([])


def test_long_titles_do_not_run_into_the_next_panel():
    title = "A rather long title over a narrow panel"
    canvas = side_by_side([Panel(title, solid(224, 4, (200, 0, 0))), Panel("B", solid(224, 4, (0, 0, 200)))])
    red = np.nonzero((canvas == (200, 0, 0)).all(-1))[1].max()
    blue = np.nonzero((canvas == (0, 0, 200)).all(-1))[1].min()
    ink = np.nonzero((canvas[:40].max(-1) < 150).any(0))[0]
    assert red < ink[ink < blue - 5].max() < blue - 5


def test_sample_tokens_is_the_same_every_time():
    features = torch.arange(2 * 30 * 40.0).reshape(2, 30, 40)
    torch.manual_seed(3)
    first = sample_tokens(features, 50)
    torch.manual_seed(4)
    assert first.equal(sample_tokens(features, 50))
    assert first.shape == (50, 2)
    assert len(first[:, 0].unique()) == 50
    assert (first[:, 1] - first[:, 0] == 1200).all()
    assert sample_tokens(features.half(), 5000).shape == (1200, 2)


def test_one_channel_is_grey_and_two_leave_the_third_constant():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 5, 6, generator=generator)
    rgb = fit_colours([one.flatten(1).T], (1, 2, 3)).picture(one)
    assert (rgb == rgb[..., :1]).all()
    assert np.ptp(rgb) > 200
    two = torch.randn(2, 5, 6, generator=generator)
    rgb = fit_colours([two.flatten(1).T], (1, 2, 3)).picture(two)
    assert np.ptp(rgb[..., 0]) > 200
    assert np.ptp(rgb[..., 1]) > 200
    assert set(rgb[..., 2].ravel()) == {128}


def test_save_png(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    save_png(tmp_path / "new" / "a.png", rgb)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "new" / "a.png")), rgb)
    with pytest.raises(OutputError, match="is a folder"):
        save_png(tmp_path, rgb)
