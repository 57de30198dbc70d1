"""Unguided baselines: nearest, bilinear and bicubic (Keys, 1981)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.ops.taps import interpolate, interpolating_rows, resize_rows
from featup_cli.upsamplers.api import FLOAT, Rows, RowUpsampler, check_inputs
from featup_cli.upsamplers.method import Making


class Interpolation(RowUpsampler):
    """Interpolate between tokens, whose centres lie at half cells (`align_corners=False`); the picture isn't read."""

    linear_in_features = True

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def whole(self, image: Tensor, lr_feats: Tensor, size: Size) -> Tensor:
        """All rows by PyTorch itself, which rounds otherwise."""
        check_inputs(image, lr_feats, size)
        return interpolate(lr_feats, size, self.mode)

    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Rows:
        """Rows of the features, mixed and then widened."""
        check_inputs(image, lr_feats, size)
        taps = interpolating_rows(self.mode, size[0], lr_feats.shape[2], lr_feats)
        return lambda top, bottom: resize_rows(lr_feats, taps[top:bottom], size[1], self.mode)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The band, and two maps that are not widened yet."""
        batch, channels, _, width = lr_shape
        return FLOAT * batch * channels * rows * (output_size[1] + 2 * width)


def build(making: Making) -> Interpolation:
    """The interpolation of a record."""
    return Interpolation(making.method.name)
