"""What all baselines share: the grid is doubled until it reaches the output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.errors import ShapeError
from featup_cli.upsamplers.base import FLOAT, GUIDANCE_MAPS, Details, WholeBands, check_inputs

Size = tuple[int, int]

# Pictures and labels are often a few pixels larger than a whole number of tokens. A further doubling for them would
# cost four times the pixels, so this much (in doublings, 7 %) is left to interpolation.
_TOLERANCE = 0.1


class DoublingUpsampler(WholeBands, nn.Module):
    """Doubles the grid as often as `doublings` says, always with the same parameters, and resizes the rest.

    Args:
        channels: C, of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.details = Details()

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """Estimated peak of making the whole; see `Upsampler.band_bytes`."""
        batch, channels, height, width = lr_shape
        pixels = height * width * 4 ** doublings((height, width), output_size)
        return FLOAT * batch * (pixels * (3 * channels + GUIDANCE_MAPS) + math.prod(output_size) * channels)

    def check_call(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> None:
        """Raise ShapeError unless the arguments fit each other and the features have C channels."""
        check_inputs(image, lr_feats, output_size)
        if lr_feats.shape[1] != self.channels:
            raise ShapeError(f"lr_feats must be [B, {self.channels}, h, w], not {list(lr_feats.shape)}")


def doublings(lr_size: Size, output_size: Size) -> int:
    """How many doublings bring `lr_size` to `output_size`, or within 7 % of it: at least one."""
    ratio = max(out / lr for out, lr in zip(output_size, lr_size, strict=True))
    return max(1, math.ceil(math.log2(ratio) - _TOLERANCE))


def resize(maps: Tensor, size: Size) -> Tensor:
    """Bring [B, C, H, W] to the exact output size bilinearly."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
