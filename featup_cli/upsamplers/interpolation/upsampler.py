"""Unguided baselines: nearest, bilinear and bicubic (Keys, 1981)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

from featup_cli.ops.taps import interpolating_rows, resize_rows
from featup_cli.upsamplers.api import FLOAT, Details, check_inputs
from featup_cli.upsamplers.method import Making


class Interpolation:
    """Interpolate between tokens, whose centres lie at half cells (`align_corners=False`)."""

    linear_in_features = True

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.details = Details()

    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Resize `lr_feats` [B, C, h, w] to [B, C, *output_size]; the picture is not looked at."""
        check_inputs(image, lr_feats, output_size)
        if self.mode == "nearest":
            return F.interpolate(lr_feats, size=output_size, mode="nearest-exact")
        return F.interpolate(lr_feats, size=output_size, mode=self.mode, align_corners=False)

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int], rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """The result of the call in bands of rows; see `Upsampler.bands`."""
        check_inputs(image, lr_feats, output_size)
        height, width = output_size
        taps = interpolating_rows(self.mode, height, lr_feats.shape[2], lr_feats)
        for top in range(start, height, rows):
            yield resize_rows(lr_feats, taps[top : top + rows], width, self.mode)

    def band_bytes(self, lr_shape: Sequence[int], output_size: tuple[int, int], rows: int) -> int:
        """The band, and two maps that are not widened yet; see `Upsampler.band_bytes`."""
        batch, channels, _, width = lr_shape
        return FLOAT * batch * channels * rows * (output_size[1] + 2 * width)


def build(making: Making) -> Interpolation:
    """The interpolation of a record."""
    return Interpolation(making.method.name)
