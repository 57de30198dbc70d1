"""Features pooled over the regions of a mask."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.errors import ShapeError
from featup_cli.core.shapes import Size
from featup_cli.io.mapped import MappedFeatures, open_features
from featup_cli.ops.regions import RegionSums
from featup_cli.pictures.masks import as_mask

_BAND = 4_000_000  # numbers of a map that are read at a time


class Regions(NamedTuple):
    """Features of regions, in the order of their ids.

    Attributes:
        features: float32 [R, C], the mean over each region.
        ids: int64 [R], label values, or colours as 65536 red + 256 green + blue.
        pixels: int64 [R], pixels of each region in the feature map.
    """

    features: Tensor
    ids: Tensor
    pixels: Tensor


def pool_regions(features: Any, mask: Any) -> Regions:
    """Mean features of each region of a mask: what `featup upsample --mask` stores.

    Args:
        features: a result, a feature file (loaded, opened or its path), or an array or tensor [C, H, W]. Files are read
            by bands of rows.
        mask: a path, Pillow image, array or tensor: whole numbers or booleans [H, W], or colours uint8 [H, W, 3]. It
            has the size of the features, or the aspect ratio of the picture (of a bare tensor: of the features), and
            is then resized to the nearest pixel. Regions that vanish by that are left out.
    Raises:
        InputError: an unusable mask or file; ShapeError: features of another shape.

    Example:
        >>> import featup_cli as featup, torch
        >>> features = torch.stack([torch.arange(6.0).view(2, 3), torch.ones(2, 3)])
        >>> regions = featup.pool_regions(features, torch.tensor([[7, 7, 9], [7, 7, 9]]))
        >>> regions.ids.tolist(), regions.features.tolist(), regions.pixels.tolist()
        ([7, 9], [[2.0, 1.0], [3.5, 1.0]], [4, 2])
    """
    with ExitStack() as stack:
        if isinstance(features, (str, Path)):
            features = stack.enter_context(open_features(features))
        recorded = getattr(features, "provenance", {}).get("input")
        values = features if isinstance(features, MappedFeatures) else getattr(features, "features", features)
        if isinstance(values, np.ndarray):
            values = torch.from_numpy(values)
        if not isinstance(values, Tensor | MappedFeatures) or len(values.shape) != 3 or 0 in values.shape:
            raise ShapeError(f"features must be [C, H, W], not {list(getattr(values, 'shape', ())) or type(values)}")
        channels, height, width = values.shape
        fitted = as_mask(mask).fitted((height, width), _size(recorded) or (height, width))
        sums, rows = RegionSums(fitted.index, channels), max(1, _BAND // (channels * width))
        for top in range(0, height, rows):
            sums.add(values[:, top : top + rows])
    return Regions(sums.means(), torch.from_numpy(fitted.ids), torch.from_numpy(sums.pixels))


def _size(recorded: Any) -> Size | None:
    """Size of the picture that a file records, if it does."""
    size = recorded.get("size") if isinstance(recorded, dict) else None
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size):
        return size[0], size[1]
    return None
