"""Resizing a few rows of a result at a time, with the weights that PyTorch uses for the whole.

Pictures may be uint8, which is a quarter of the memory: of these only the rows in work become floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from featup_kernels.resampled_conv.axis import cubic_kernel, place_centres, resized_axis
from torch import Tensor

from featup_cli.core.shapes import Size


def in_unit_range(image: Tensor) -> Tensor:
    """An image as floats in [0, 1]: uint8 divided by 255, floats as they are."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


# Not frozen: the compiler of PyTorch 2.9 and older loses the fields of frozen records that it makes and calls.
@dataclass
class RowTaps:
    """Which rows of a source each output row mixes: `cells` int64 [size, T], with `weights` [size, T].

    The source has `height` rows. `reach` holds the first and the last row of it that each output row reads, where the
    host knows them: it need not wait for a GPU to choose a part.
    """

    cells: Tensor
    weights: Tensor
    height: int
    reach: tuple[list[int], list[int]] | None = None

    def __getitem__(self, part: slice) -> RowTaps:
        return RowTaps(self.cells[part], self.weights[part], self.height)

    def part(self, top: int, bottom: int) -> tuple[RowTaps, slice]:
        """The taps of some rows, and the rows of the source that they read, from the first of which they count."""
        if (top, bottom) == (0, len(self.cells)):  # known without looking, which a compiler couldn't
            return self, slice(0, self.height)
        cells = self.cells[top:bottom]
        if self.reach is None:
            first, stop = int(cells.min()), int(cells.max()) + 1
        else:
            first, stop = min(self.reach[0][top:bottom]), max(self.reach[1][top:bottom]) + 1
        return RowTaps(cells - first, self.weights[top:bottom], stop - first), slice(first, stop)

    def __call__(self, maps: Tensor) -> Tensor:
        """Mix the rows of `maps` [B, C, height, w]: [B, C, size, w]."""
        dtype = torch.float32 if maps.dtype == torch.uint8 else maps.dtype
        cells, weights = self.cells.unbind(1), self.weights.to(dtype)[..., None].unbind(1)
        out = in_unit_range(maps.index_select(2, cells[0]))
        if len(cells) == 1:
            return out
        out.mul_(weights[0])
        for cell, weight in zip(cells[1:], weights[1:], strict=True):
            out.addcmul_(in_unit_range(maps.index_select(2, cell)), weight)
        return out


def interpolating_rows(mode: str, size: int, cells: int, like: Tensor) -> RowTaps:
    """Rows of `F.interpolate` from `cells` to `size` rows; `mode` is nearest (exact), bilinear or bicubic.

    `like` gives dtype and device.
    """
    # A compiler's tensors must not be kept.
    if torch.compiler.is_compiling():
        return RowTaps(*resized_axis(mode, size, cells, like), cells)
    return _kept_rows(mode, size, cells, like.dtype, like.device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for callers that want gradients too
def _kept_rows(mode: str, size: int, cells: int, dtype: torch.dtype, device: torch.device) -> RowTaps:
    axis = resized_axis(mode, size, cells, torch.empty(0, dtype=dtype))
    least, greatest = axis.cells.aminmax(dim=1)
    return RowTaps(axis.cells.to(device), axis.weights.to(device), cells, (least.tolist(), greatest.tolist()))


def averaging_rows(size: int, cells: int, like: Tensor) -> RowTaps:
    """Rows of `F.adaptive_avg_pool2d` from `cells` to `size` rows, which are no more."""
    rows = torch.arange(size, device=like.device)
    first = torch.div(rows * cells, size, rounding_mode="floor")
    count = torch.div((rows + 1) * cells + size - 1, size, rounding_mode="floor") - first
    offsets = torch.arange(-(-cells // size) + (cells % size > 0), device=like.device)  # at most as many
    weights = (offsets < count[:, None]).to(like.dtype) / count[:, None]
    return RowTaps((first[:, None] + offsets).clamp(max=cells - 1), weights, cells)


def antialiased_rows(size: int, cells: int, like: Tensor) -> RowTaps:
    """Rows of bicubic `F.interpolate` with `antialias=True` from `cells` to `size` rows."""
    centres = place_centres(size, cells, like)
    scale = max(cells / size, 1.0)
    support = 2 * scale
    first = (centres - support + 0.5).long().clamp(min=0)
    stop = (centres + support + 0.5).long().clamp(max=cells)
    rows = first[:, None] + torch.arange(2 * math.ceil(support) + 1, device=like.device)  # at most as many
    weights = cubic_kernel(((rows + 0.5 - centres[:, None]) / scale).abs(), -0.5)
    weights = weights.masked_fill(rows >= stop[:, None], 0)
    return RowTaps(rows.clamp(max=cells - 1), weights / weights.sum(1, keepdim=True), cells)


def interpolate(maps: Tensor, size: Size, mode: str) -> Tensor:
    """Bring [B, C, h, w] to `size`; `mode` is nearest (exact), bilinear or bicubic, with centres at half units."""
    if mode == "nearest":
        return F.interpolate(maps, size=size, mode="nearest-exact")
    return F.interpolate(maps, size=size, mode=mode, align_corners=False)


def resize_rows(maps: Tensor, taps: RowTaps, width: int, mode: str) -> Tensor:
    """Rows of `interpolate`, equal to it up to rounding.

    Args:
        maps: [B, C, h, w].
        taps: of `interpolating_rows` with the same mode; the part for the rows that are wanted.
        width: of the result.
        mode: nearest (exact), bilinear or bicubic.
    Returns:
        [B, C, rows, width].
    """
    rows = taps(maps)
    return interpolate(rows, (rows.shape[2], width), mode)


def guidance_rows(guidance: Tensor, size: Size, top: int, bottom: int) -> Tensor:
    """Rows `top` to `bottom` of `resize_guidance(guidance, size)`: [B, G, bottom - top, size[1]]."""
    height, width = guidance.shape[2:]
    pooled, seen = (min(height, size[0]), min(width, size[1])), slice(top, bottom)
    if grows := pooled[0] < size[0]:
        linear, seen = interpolating_rows("bilinear", size[0], height, guidance).part(top, bottom)
        maps = in_unit_range(guidance[:, :, seen])
    elif pooled[0] == height:
        maps = in_unit_range(guidance[:, :, seen])
    else:
        maps = averaging_rows(pooled[0], height, guidance)[seen](guidance)
    if pooled[1] != width:
        maps = F.adaptive_avg_pool2d(maps, (maps.shape[2], pooled[1]))
    if grows:
        return resize_rows(maps, linear, size[1], "bilinear")
    return maps if pooled[1] == size[1] else interpolate(maps, (bottom - top, size[1]), "bilinear")


def picture_rows(picture: Tensor, size: Size, top: int, bottom: int) -> Tensor:
    """Rows `top` to `bottom` of `resize_picture(picture, size)`, antialiased bicubic: [3, bottom - top, size[1]]."""
    if tuple(picture.shape[1:]) == size:
        return in_unit_range(picture[:, top:bottom])
    rows = antialiased_rows(size[0], picture.shape[1], picture)[top:bottom](picture[None])
    sized = (bottom - top, size[1])
    return F.interpolate(rows, size=sized, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
