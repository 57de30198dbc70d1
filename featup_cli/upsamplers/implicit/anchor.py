"""Closed-form initialisation of the anchor: mean of the views, then a guided filter's colour slopes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.multiview.views import Views
from featup_cli.multiview.windows import cell_centres
from featup_cli.ops.guided_filter import box_mean, local_moments
from featup_cli.ops.taps import interpolate

GRID_SCALE = 2  # anchor cells per token along a side
WORK_SCALE = 4  # guided filter cells per token along a side
WINDOW = 3  # radius of the guided filter in its cells: 7 cells are one and three quarter tokens
EPSILON = 1e-4  # squared intensity: contrasts below about 0.01 count as noise


def mean_of_views(observed: Tensor, views: Views, sharpening: float) -> Tensor:
    """Average the views that show the whole picture, each warped back (and sharpened, if asked).

    Every view samples the picture at other positions, so their mean is finer and less noisy than a single one.
    Magnified views are left out: their features differ in more than resolution.

    Args:
        observed: [V, K, h, w] tokens of the views.
        views: their parameters, on the CPU.
        sharpening: strength of an unsharp mask on the token grid; undoes part of the network's pooling.
    Returns:
        [K, 2 h, 2 w]
    """
    _, components, h, w = observed.shape
    centres = cell_centres(h * GRID_SCALE, w * GRID_SCALE, observed.device)
    total = observed.new_zeros(components, h * GRID_SCALE, w * GRID_SCALE)
    count = observed.new_zeros(h * GRID_SCALE, w * GRID_SCALE)
    whole = (views.boxes[:, 2] >= views.image_size[0]).nonzero()[:, 0].tolist() or range(len(views))
    for index in whole:
        tokens = observed[index]
        tokens = tokens + sharpening * (tokens - box_mean(tokens, 1))
        position = views.to_view(index, centres)
        inside = ((position > 0) & (position < 1)).all(-1).to(total.dtype)
        xy = position.flip(-1) * 2 - 1
        warped = F.grid_sample(tokens[None], xy[None], mode="bicubic", padding_mode="border", align_corners=False)[0]
        total += warped * inside
        count += inside
    # Every cell is inside some view: the first view is the picture itself.
    return total / count.clamp_min(1)


def fit_slopes(grid: Tensor, picture: Tensor, token_grid: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Local linear models of coefficients in colour: the guided filter (He et al., 2010) on a coarse grid.

    Args:
        grid: [K, h', w'] coefficients.
        picture: [3, H, W] in [0, 1].
        token_grid: (h, w) of the slopes.
    Returns:
        the smoothed coefficients [K, h', w'], slopes [3 K, h, w] ordered by colour, and local mean colours [3, h', w'].
    """
    size = (token_grid[0] * WORK_SCALE, token_grid[1] * WORK_SCALE)
    guide = F.interpolate(picture[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    target = interpolate(grid[None], size, "bicubic")
    mean_guide, mean_target, covariance, cross = local_moments(guide, target, WINDOW, EPSILON)
    # Not `solve`, which waits for the device to say whether any is singular: EPSILON keeps all of them regular.
    slope = torch.linalg.solve_ex(covariance, torch.stack(cross, 1).permute(0, 3, 4, 1, 2))[0]  # [1, H, W, 3, K]
    slope = slope.permute(0, 3, 4, 1, 2).flatten(1, 2)
    cells = (grid.shape[1], grid.shape[2])
    parts = (mean_target, cells), (slope, token_grid), (mean_guide, cells)
    smooth, slopes, mean_color = (F.interpolate(box_mean(x, WINDOW), size=to, mode="area")[0] for x, to in parts)
    return smooth, slopes, mean_color
