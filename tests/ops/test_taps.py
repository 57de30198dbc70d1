"""Rows of a resized map, against PyTorch's own resizing of the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.multiview.views import resize_picture
from featup_cli.ops.taps import averaging_rows, guidance_rows, interpolating_rows, picture_rows, resize_rows
from featup_cli.upsamplers.guidance import resize_guidance

PICTURE_SIZES = [(50, 66), (11, 13), (61, 90)]
PARTS = [(0, 61), (0, 7), (20, 21), (55, 61)]


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("cells", [1, 2, 9, 100])
@pytest.mark.parametrize(("top", "bottom"), PARTS)
def test_rows_of_a_resized_map_read_the_part_that_they_need(mode: str, cells: int, top: int, bottom: int) -> None:
    maps = torch.randn(2, 3, cells, 5).double()
    torch_mode, corners = ("nearest-exact", None) if mode == "nearest" else (mode, False)
    if mode == "nearest":  # PyTorch finds it in float32 for float64 too: another one where two are equally near
        maps = maps.float()
    expected = F.interpolate(maps, size=(61, 8), mode=torch_mode, align_corners=corners)[:, :, top:bottom]
    taps = interpolating_rows(mode, 61, cells, maps)
    part, seen = taps.part(top, bottom)
    torch.testing.assert_close(resize_rows(maps, taps[top:bottom], 8, mode), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(resize_rows(maps[:, :, seen], part, 8, mode), expected, rtol=1e-12, atol=1e-12)
    assert 0 <= seen.start < seen.stop <= cells
    assert part.height == seen.stop - seen.start


@pytest.mark.parametrize("size", [1, 7, 50])
def test_rows_of_an_average(size: int) -> None:
    maps = torch.randn(1, 2, 50, 4).double()
    expected = F.adaptive_avg_pool2d(maps, (size, 4))
    torch.testing.assert_close(averaging_rows(size, 50, maps)(maps), expected, rtol=1e-12, atol=1e-12)


def as_floats(pixels: Tensor) -> Tensor:
    return pixels.double() / 255


@pytest.mark.parametrize("picture_size", PICTURE_SIZES)
@pytest.mark.parametrize(("top", "bottom"), PARTS)
def test_rows_of_guidance_and_of_a_picture(picture_size: tuple[int, int], top: int, bottom: int) -> None:
    pixels, size = torch.randint(0, 256, (1, 3, *picture_size), dtype=torch.uint8), (61, 40)
    for rows, whole in (
        (lambda x: guidance_rows(x, size, top, bottom)[0], resize_guidance(as_floats(pixels), size)[0]),
        (lambda x: picture_rows(x[0], size, top, bottom), resize_picture(as_floats(pixels)[0], size)),
    ):
        expected = whole[:, top:bottom]
        torch.testing.assert_close(rows(as_floats(pixels)), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rows(pixels).double(), expected, rtol=0, atol=1e-5)
