from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from featup_cli.multiview.lookup import sample_grid
from featup_cli.upsamplers.implicit.model import AnchoredNetwork


@pytest.mark.parametrize(("cubic", "mode"), [(False, "bilinear"), (True, "bicubic")])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 16)])
def test_look_up_equals_grid_sample_and_so_does_its_gradient(cubic: bool, mode: str, size: tuple[int, int]) -> None:
    position = torch.rand(64, 2, dtype=torch.float64)
    grid = torch.randn(4, *size, dtype=torch.float64, requires_grad=True)
    twin = grid.detach().clone().requires_grad_()
    xy = (position.flip(-1) * 2 - 1).view(1, 1, -1, 2)
    expected = F.grid_sample(twin[None], xy, mode=mode, padding_mode="border", align_corners=False)[0, :, 0].T
    found = sample_grid(grid, position, cubic)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(found)
    found.backward(cotangent)
    expected.backward(cotangent)
    torch.testing.assert_close(grid.grad, twin.grad)


def test_colour_model_multiplies_slopes_with_contrast() -> None:
    slope, position, contrast = torch.randn(3 * 5, 4, 6), torch.rand(20, 2), torch.randn(20, 3)
    looked_up = sample_grid(slope, position).view(20, 3, 5)
    expected = (looked_up * contrast[:, :, None]).sum(1)
    torch.testing.assert_close(AnchoredNetwork.colour_model(slope, position, contrast), expected)
