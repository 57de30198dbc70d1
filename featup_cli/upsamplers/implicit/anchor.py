"""Closed-form initialisation of the anchor: mean of the views, then a guided filter's colour slopes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.multiview.views import Views
from featup_cli.multiview.windows import cell_centres

GRID_SCALE = 2  # anchor cells per token along a side
WORK_SCALE = 4  # guided filter cells per token along a side
WINDOW = 3  # radius of the guided filter in its cells: 7 cells are one and three quarter tokens
EPSILON = 1e-4  # squared intensity: contrasts below about 0.01 count as noise


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over a square window of [..., H, W], borders replicated."""
    padded = F.pad(x[None], (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)[0]


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


def fit_slopes(grid: Tensor, picture: Tensor, token_grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Local linear models of coefficients in colour: the guided filter (He et al., 2010) on a coarse grid.

    Args:
        grid: [K, h', w'] coefficients.
        picture: [3, H, W] in [0, 1].
        token_grid: (h, w) of the slopes.
    Returns:
        the smoothed coefficients [K, h', w'], slopes [3 K, h, w] ordered by colour, and local mean colours [3, h', w'].
    """
    size = (token_grid[0] * WORK_SCALE, token_grid[1] * WORK_SCALE)
    guide = F.interpolate(picture[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    target = F.interpolate(grid[None], size=size, mode="bicubic", align_corners=False)[0]
    mean_guide, mean_target = box_mean(guide, WINDOW), box_mean(target, WINDOW)
    products = (guide[:, None] * guide[None]).flatten(0, 1)
    covariance = box_mean(products, WINDOW).view(3, 3, *size) - mean_guide[:, None] * mean_guide[None]
    covariance = covariance.permute(2, 3, 0, 1) + EPSILON * torch.eye(3, device=grid.device)
    cross = torch.stack(
        [box_mean(g * target, WINDOW) - m * mean_target for g, m in zip(guide, mean_guide, strict=True)]
    )
    # Not `solve`, which waits for the device to say whether any is singular: EPSILON keeps all of them regular.
    slope = torch.linalg.solve_ex(covariance, cross.permute(2, 3, 0, 1))[0]  # [H, W, 3, K]
    slope = box_mean(slope.permute(2, 3, 0, 1).flatten(0, 1), WINDOW)

    def reduced(x: Tensor, to: tuple[int, int]) -> Tensor:
        return F.interpolate(x[None], size=to, mode="area")[0]

    cells = (grid.shape[1], grid.shape[2])
    return (
        reduced(box_mean(mean_target, WINDOW), cells),
        reduced(slope, token_grid),
        reduced(box_mean(mean_guide, WINDOW), cells),
    )
