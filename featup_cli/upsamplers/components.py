"""What methods share that fit the principal components of one picture's features on a finer grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from featup_cli.core.errors import ShapeError
from featup_cli.core.progress import Progress, no_progress
from featup_cli.core.shapes import Size
from featup_cli.ops.pca import PCA, fit_pca
from featup_cli.upsamplers.api import FLOAT, Rows, RowUpsampler, check_inputs
from featup_cli.upsamplers.interpolation.upsampler import Interpolation
from featup_cli.upsamplers.method import Method


class ComponentFit(RowUpsampler, ABC):
    """Fits the components of one picture's features, then interpolates bilinearly to the exact size.

    Args:
        config: settings, among them `components` and `max_pixels`, the bound of the grid.
        seed: the same seed on the same device gives the same result.
        progress: called as the fit goes on.
    """

    method: Method

    def __init__(self, config: Any = None, seed: int = 0, progress: Progress = no_progress) -> None:
        super().__init__()
        self.config = config or self.method.config()
        self.seed, self.progress = seed, progress
        self._interpolation = Interpolation("bilinear")

    @abstractmethod
    def fit(self, pca: PCA, lr_feats: Tensor, output_size: Size) -> Tensor:
        """Coefficients [1, K, H', W'] of features [1, C, h, w], at the size of `output_grid`; leaves `details`."""

    @abstractmethod
    def fit_bytes(self, size: Size) -> int:
        """Estimated peak of a fit that gives (H', W')."""

    @torch.no_grad()
    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Rows:
        """Fit; rows are interpolated from what it gives. ShapeError for more than one picture."""
        check_inputs(image, lr_feats, size)
        if len(lr_feats) != 1:
            raise ShapeError(f"{self.method.name} fits one picture at a time, not {len(lr_feats)}")
        pca = fit_pca(lr_feats[0].flatten(1).T, self.config.components)
        rows = self._interpolation.prepare(image, self.fit(pca, lr_feats, size), size)
        return lambda top, bottom: pca.reconstruct(rows(top, bottom)[0])[None].to(lr_feats)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """A step of the fit, and the interpolation of a band and its reconstruction."""
        height, width = output_grid((lr_shape[2], lr_shape[3]), output_size, self.config.max_pixels)
        mixed = self._interpolation.band_bytes((1, self.config.components, height, width), output_size, rows)
        return self.fit_bytes((height, width)) + mixed + 2 * FLOAT * lr_shape[1] * rows * output_size[1]


def output_grid(grid: Size, output_size: Size, max_pixels: int) -> Size:
    """(height, width) of a fit's own output: 2, 4, 8, ... times the token grid, as far as the output is no
    smaller and `max_pixels` allow."""
    scale, room = 2, min(output_size[0] / grid[0], output_size[1] / grid[1])
    while 4 * scale**2 * grid[0] * grid[1] <= max_pixels and 2 * scale <= room:
        scale *= 2
    return scale * grid[0], scale * grid[1]
