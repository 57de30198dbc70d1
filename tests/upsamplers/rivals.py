"""What the tests of the rivals share: small settings, a batch, and pixels beyond the border."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from featup_cli.training.batches import Batch, Statistics

CHANNELS = 8
IMAGE = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, dict[str, Any]] = {
    "liif": {"hidden": 8, "layers": 3},
    "ifa": {"hidden": 12, "compressed": 6, "frequencies": 2},
    "pac": {"guidance_channels": 4},
    "dgf": {"hidden": 6},
    "indexnet": {"guidance_channels": 4},
    "a2u": {"guidance_channels": 4, "rank": 2},
}


def away_from_start(model: nn.Module) -> nn.Module:
    """A model away from its start, at which some gradients are zero."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def make_batch() -> Batch:
    """Two crops whose features follow the picture, and tokens of their views."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, 32, 32, generator=generator)
    lift = torch.randn(3, CHANNELS, generator=generator)
    lr_feats = torch.einsum("bihw,ic->bchw", nn.functional.avg_pool2d(images, 8), lift)
    positions = torch.rand(2, 5, 4, 2, generator=generator)
    fine = torch.einsum("bihw,ic->bchw", images, lift)
    grid = positions.flip(-1) * 2 - 1
    sampled = nn.functional.grid_sample(fine, grid, align_corners=False).mean(3).movedim(1, 2).flatten(0, 1)
    return Batch(
        images=images,
        lr_feats=lr_feats,
        statistics=Statistics(torch.zeros(CHANNELS), torch.ones(CHANNELS)),
        projection=torch.eye(CHANNELS),
        offsets=torch.rand(10, 4, 2, generator=generator) * 2 - 1,
        positions=positions,
        observed=sampled,
    )


def pixel(maps: Tensor, y: int, x: int) -> Tensor:
    """Pixel [C] of maps [C, h, w]; the border repeats."""
    return maps[:, min(max(y, 0), maps.shape[1] - 1), min(max(x, 0), maps.shape[2] - 1)]


def around(maps: Tensor, y: int, x: int, offsets: range = range(-1, 2)) -> Tensor:
    """The pixels [C, n * n] around (y, x), row-major."""
    return torch.stack([pixel(maps, y + dy, x + dx) for dy in offsets for dx in offsets], 1)
