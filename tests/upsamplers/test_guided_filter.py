from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from featup_cli.upsamplers.guidance import resize_guidance
from featup_cli.upsamplers.guided.upsampler import EPSILON, RADIUS, SCALE, GuidedFilter, fit_linear_model


def test_an_edge_of_the_picture_becomes_an_edge_of_the_features() -> None:
    image = torch.full((1, 3, 64, 64), 0.2)
    image[..., 29:] = 0.8  # an edge that no cell of 8 pixels begins at
    true = 2 * image[:, :1] - image[:, 1:2] + 0.5
    lr_feats = F.adaptive_avg_pool2d(true, 8)
    bilinear = F.interpolate(lr_feats, size=(64, 64), mode="bilinear", align_corners=False)
    guided = GuidedFilter()(image, lr_feats, (64, 64))

    def jump(maps: torch.Tensor) -> torch.Tensor:
        return (maps[..., 29] - maps[..., 28]).mean()

    assert jump(guided) > 4 * jump(bilinear)


def test_is_linear_in_the_features() -> None:
    image, a, b = torch.rand(2, 3, 30, 40), torch.randn(2, 4, 5, 7), torch.randn(2, 4, 5, 7)
    upsample = GuidedFilter()
    expected = 2 * upsample(image, a, (33, 41)) - 3 * upsample(image, b, (33, 41))
    torch.testing.assert_close(upsample(image, 2 * a - 3 * b, (33, 41)), expected, atol=1e-4, rtol=1e-4)


def test_a_flat_picture_gives_smooth_features_and_no_slopes() -> None:
    out = GuidedFilter()(torch.full((1, 3, 32, 32), 0.5), torch.randn(1, 2, 4, 4), (32, 32))
    assert out.isfinite().all()
    assert (out[..., 1:] - out[..., :-1]).abs().max() < 0.3


def test_fits_ridge_regressions_in_windows_to_float64() -> None:
    image, lr_feats = torch.rand(1, 3, 12, 16).double(), 3 + torch.randn(1, 2, 3, 4).double()
    grid = (3 * SCALE, 4 * SCALE)
    feats = F.interpolate(lr_feats, size=grid, mode="bilinear", align_corners=False)[0].numpy()
    guide = resize_guidance(image, grid)[0].numpy()

    def windows(maps: np.ndarray, y: int, x: int) -> np.ndarray:
        padded = np.pad(maps, ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)), mode="edge")
        return padded[:, y : y + 2 * RADIUS + 1, x : x + 2 * RADIUS + 1].reshape(len(maps), -1)

    fitted = np.zeros((2, 3, *grid))
    for y in range(grid[0]):
        for x in range(grid[1]):
            colors, values = windows(guide, y, x), windows(feats, y, x)
            colors, values = (a - a.mean(1, keepdims=True) for a in (colors, values))
            ridge = np.sqrt(EPSILON * colors.shape[1]) * np.eye(3)
            stacked = np.hstack((colors, ridge)).T
            fitted[:, :, y, x] = np.linalg.lstsq(stacked, np.hstack((values, np.zeros((2, 3)))).T, rcond=None)[0].T
    model = fit_linear_model(image, lr_feats)
    for i, slope in enumerate(model.slopes):
        expected = [[windows(fitted[:, i], y, x).mean(1) for x in range(grid[1])] for y in range(grid[0])]
        torch.testing.assert_close(slope[0], torch.tensor(np.array(expected)).permute(2, 0, 1), rtol=1e-8, atol=1e-8)
