"""Guided filter baseline: features as local linear functions of colour (He et al., 2010; fast variant, 2015)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.ops.taps import RowTaps, guidance_rows, interpolating_rows, resize_rows
from featup_cli.upsamplers.api import FLOAT, Details, check_inputs
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


class GuidedFilter:
    """Fit features, interpolated bilinearly, by linear functions of colour in overlapping windows, and evaluate them
    at full resolution. Nothing is learned; linear in the features."""

    linear_in_features = True

    def __init__(self) -> None:
        self.details = Details()

    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Upsample `lr_feats` [B, C, h, w] to [B, C, *output_size], guided by `image` [B, 3, H, W] in [0, 1]."""
        (whole,) = self.bands(image, lr_feats, output_size, output_size[0])
        return whole

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int], rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """The result of the call in bands of rows; see `Upsampler.bands`."""
        check_inputs(image, lr_feats, output_size)
        exact = at_least_float32(lr_feats)
        image = like_features(image, exact)
        model = fit_linear_model(image, exact)
        height = output_size[0]
        taps = interpolating_rows("bilinear", height, model.mean.shape[2], exact)
        for top in range(start, height, rows):
            color = guidance_rows(image, output_size, top, min(top + rows, height))
            yield model(color, taps[top : top + rows]).to(lr_feats.dtype)

    def band_bytes(self, lr_shape: Sequence[int], output_size: tuple[int, int], rows: int) -> int:
        """The linear functions while they are fitted, then with a band, a resized slope and its rows."""
        batch, channels, height, width = lr_shape
        grid = height * width * SCALE**2
        row = channels * (3 * output_size[1] + 3 * width * SCALE) + 4 * 3 * output_size[1]
        return FLOAT * batch * max(13 * channels * grid, 4 * channels * grid + rows * row)


def fit_linear_model(image: Tensor, lr_feats: Tensor) -> LinearModel:
    """Fit features [B, C, h, w] by linear functions of the colours of `image` [B, 3, H, W] in every window.

    Both in float32 or float64: (co)variances are small differences of products, and are divided by each other.
    """
    grid = (lr_feats.shape[2] * SCALE, lr_feats.shape[3] * SCALE)
    guide = resize_guidance(image, grid)
    # Far from zero the differences would lose digits.
    offset = lr_feats.mean((2, 3), keepdim=True)
    feats = F.interpolate(lr_feats - offset, size=grid, mode="bilinear", align_corners=False)
    mean_color, mean_feats = _box_mean(guide), _box_mean(feats)
    products = (guide[:, :, None] * guide[:, None]).flatten(1, 2)
    covariance = _box_mean(products).unflatten(1, (3, 3)) - mean_color[:, :, None] * mean_color[:, None]
    covariance = covariance.permute(0, 3, 4, 1, 2) + EPSILON * torch.eye(3).to(covariance)
    inverse = torch.linalg.inv(covariance).permute(0, 3, 4, 1, 2)  # [B, 3, 3, H', W']
    cross = [_box_mean(guide[:, i, None] * feats) - mean_color[:, i, None] * mean_feats for i in range(3)]
    slopes = []
    for i in range(3):
        slope = sum((inverse[:, i, j, None] * cross[j] for j in range(3)), torch.zeros_like(feats))
        slopes.append(_box_mean(slope))
    return LinearModel(_box_mean(mean_feats) + offset, tuple(slopes), _box_mean(mean_color))


def _box_mean(maps: Tensor) -> Tensor:
    """Mean over the window of [B, K, H, W]; the border repeats its outer pixels."""
    padded = F.pad(maps, (RADIUS,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * RADIUS + 1, stride=1)


def build(making: Making) -> GuidedFilter:
    """The guided filter."""
    return GuidedFilter()
