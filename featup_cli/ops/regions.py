"""Means of features over regions, from bands of rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.errors import ShapeError
from featup_cli.ops.pca import BLOCK

BYTES = 12  # for each channel of each region: a float64 sum and a float32 mean


class RegionSums:
    """Sums of features over regions, in float64 on the CPU.

    Args:
        index: [H, W], whole numbers 0 to R - 1: the region of each pixel. Each occurs.
        channels: C of the features.
    Attributes:
        pixels: int64 [R], pixels of each region.
    """

    def __init__(self, index: np.ndarray, channels: int) -> None:
        self._index, self._rows = index, 0
        self.pixels = np.bincount(index.ravel())
        self._sums = np.zeros((channels, len(self.pixels)))

    def add(self, band: Tensor) -> None:
        """Add the next rows of the features, [C, n, W].

        Raises:
            ShapeError: more rows than there are, or another width.
        """
        stop = self._rows + band.shape[1]
        if stop > self._index.shape[0] or band.shape[2] != self._index.shape[1]:
            raise ShapeError(f"bands must be rows of {list(self._index.shape)} pixels, not {list(band.shape[1:])}")
        for part in band.split(max(1, BLOCK // band.shape[2]), dim=1):  # so that copies stay small
            top, self._rows = self._rows, self._rows + part.shape[1]
            present, local = np.unique(self._index[top : self._rows], return_inverse=True)
            local = local.ravel()
            for channel, values in enumerate(part.detach().cpu().float().flatten(1).numpy()):
                self._sums[channel, present] += np.bincount(local, values)

    def means(self) -> Tensor:
        """Mean features of each region, float32 [R, C]; all rows must have been added."""
        if self._rows != self._index.shape[0]:
            raise ShapeError(f"{self._rows} of {self._index.shape[0]} rows were added")
        means = np.empty(self._sums.shape[::-1], np.float32)
        np.divide(self._sums, self.pixels, out=means.T, casting="same_kind")
        return torch.from_numpy(means)
