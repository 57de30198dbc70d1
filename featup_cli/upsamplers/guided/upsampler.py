"""Guided filter baseline: features as local linear functions of colour (He et al., 2010; fast variant, 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.ops.guided_filter import box_mean, local_moments
from featup_cli.ops.taps import RowTaps, guidance_rows, interpolate, interpolating_rows, resize_rows
from featup_cli.upsamplers.api import FLOAT, Rows, RowUpsampler, check_inputs
from featup_cli.upsamplers.guidance import at_least_float32, like_features, resize_guidance
from featup_cli.upsamplers.method import Making

SCALE = 4  # cells per low-resolution pixel along a side: the grid on which the linear functions are fitted
RADIUS = 4  # of the window in cells
EPSILON = 1e-3  # squared intensity: contrasts below about 0.03 count as noise


@dataclass(frozen=True)
class LinearModel:
    """Features as linear functions of colour: features = mean + sum over i of slopes[i] (color[i] - mean_color[i]).

    All maps lie on the same coarse grid: `mean` and each of the three `slopes` are [B, C, h, w], `mean_color` is
    [B, 3, h, w].
    """

    mean: Tensor
    slopes: tuple[Tensor, ...]
    mean_color: Tensor

    def __call__(self, color: Tensor, rows: RowTaps) -> Tensor:
        """Features [B, C, n, W] of the colours [B, 3, n, W] in rows that read the grid by `rows`."""
        width = color.shape[3]
        out = resize_rows(self.mean, rows, width, "bilinear")
        offset = color - resize_rows(self.mean_color, rows, width, "bilinear")
        for i, slope in enumerate(self.slopes):
            out.addcmul_(resize_rows(slope, rows, width, "bilinear"), offset[:, i, None])
        return out


class GuidedFilter(RowUpsampler):
    """Fit features, interpolated bilinearly, by linear functions of colour in overlapping windows, and evaluate them
    at full resolution. Nothing is learned; linear in the features."""

    linear_in_features = True

    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Rows:
        """The linear functions; rows are their values."""
        check_inputs(image, lr_feats, size)
        exact = at_least_float32(lr_feats)
        image = like_features(image, exact)
        model = fit_linear_model(image, exact)
        taps = interpolating_rows("bilinear", size[0], model.mean.shape[2], exact)

        def rows(top: int, bottom: int) -> Tensor:
            return model(guidance_rows(image, size, top, bottom), taps[top:bottom]).to(lr_feats.dtype)

        return rows

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The linear functions while they are fitted, then with a band, a resized slope and its rows."""
        batch, channels, height, width = lr_shape
        grid = height * width * SCALE**2
        row = channels * (3 * output_size[1] + 3 * width * SCALE) + 4 * 3 * output_size[1]
        return FLOAT * batch * max(13 * channels * grid, 4 * channels * grid + rows * row)


def fit_linear_model(image: Tensor, lr_feats: Tensor) -> LinearModel:
    """Fit features [B, C, h, w] by linear functions of the colours of `image` [B, 3, H, W] in every window.

    Both in float32 or float64.
    """
    grid = (lr_feats.shape[2] * SCALE, lr_feats.shape[3] * SCALE)
    # Far from zero the differences would lose digits.
    offset = lr_feats.mean((2, 3), keepdim=True)
    feats = interpolate(lr_feats - offset, grid, "bilinear")
    guide = resize_guidance(image, grid)
    mean_color, mean_feats, covariance, cross = local_moments(guide, feats, RADIUS, EPSILON)
    inverse = torch.linalg.inv(covariance).permute(0, 3, 4, 1, 2)  # [B, 3, 3, H', W']
    slopes = []
    for i in range(3):
        slope = sum((inverse[:, i, j, None] * cross[j] for j in range(3)), torch.zeros_like(feats))
        slopes.append(box_mean(slope, RADIUS))
    return LinearModel(box_mean(mean_feats, RADIUS) + offset, tuple(slopes), box_mean(mean_color, RADIUS))


def build(making: Making) -> GuidedFilter:
    """The guided filter."""
    return GuidedFilter()
