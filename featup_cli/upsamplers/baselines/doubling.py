"""What all baselines share: the grid is doubled until it reaches the output."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.errors import UsageError
from featup_cli.core.shapes import Size
from featup_cli.ops.taps import in_unit_range
from featup_cli.upsamplers.api import FLOAT, Rows, UpsamplerModule

_GUIDANCE_MAPS = 256  # maps of the output's size that may be held at once, besides features

# Pictures and labels are often a few pixels larger than a whole number of tokens. A further doubling for them would
# cost four times the pixels, so this much (in doublings, 7 %) is left to interpolation.
_TOLERANCE = 0.1


class DoublingUpsampler(UpsamplerModule):
    """Doubles the grid as often as `doublings` says, always with the same parameters, and resizes the rest.

    The result is made whole; bands are parts of it.

    Args:
        channels: C, of the features.
        config: settings; None for the defaults.
    """

    channels: int
    factor = 2  # by which a step enlarges the grid

    def __init__(self, channels: int, config: Any = None) -> None:
        super().__init__(known_channels(type(self).__name__, channels), config)

    @abstractmethod
    def upsample(self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None) -> Tensor:
        """The result [B, C, *size], or [B, K, *size] with `values`; arguments as `UpsamplerModule.prepare`."""

    def prepare(
        self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None = None, *, whole: bool = True
    ) -> Rows:
        """The whole result, of which rows are parts."""
        self.check_call(image, lr_feats, size)
        result = self.upsample(in_unit_range(image), lr_feats, size, values)
        return lambda top, bottom: result[:, :, top:bottom]

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """Of making the whole: `rows` don't matter."""
        batch, channels, height, width = lr_shape
        pixels = height * width * self.factor ** (2 * doublings((height, width), output_size, self.factor))
        return FLOAT * batch * (pixels * (3 * channels + _GUIDANCE_MAPS) + math.prod(output_size) * channels)


def known_channels(name: str, channels: int | None) -> int:
    """The number of channels; raises UsageError if it isn't given to the network called `name`."""
    if channels is None:
        raise UsageError(f"{name} needs the number of channels of the features")
    return channels


def doublings(lr_size: Size, output_size: Size, factor: int = 2) -> int:
    """How many doublings bring `lr_size` to `output_size`, or within 7 % of it: at least one.

    `factor` is that of a step which is no doubling.
    """
    ratio = max(out / lr for out, lr in zip(output_size, lr_size, strict=True))
    return max(1, math.ceil((math.log2(ratio) - _TOLERANCE) / math.log2(factor)))


def resize(maps: Tensor, size: Size) -> Tensor:
    """Bring [B, C, H, W] to the exact output size bilinearly."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
