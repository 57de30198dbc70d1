"""Probe a network: its grid of features, and the input sizes that it takes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from featup_cli.backbones.precision import Network
from featup_cli.core.errors import UsageError, first_line
from featup_cli.core.shapes import Size

_PROBE_SIDE = 64  # pixels; small, but more than one position even at stride 32


class Grid(NamedTuple):
    """Result of a probe: feature channels, pixels per feature, and the input sizes that the network takes."""

    channels: int
    stride: int
    patch_multiple: int
    fixed_size: Size | None

    @property
    def probe_size(self) -> Size:
        """A small (height, width) that the network takes."""
        return self.fixed_size or probe_size(self.patch_multiple)

    def nearest(self, side: int) -> int:
        """The multiple of `patch_multiple` nearest to `side`."""
        return max(1, round(side / self.patch_multiple)) * self.patch_multiple


def probe_size(multiple: int) -> Size:
    """A small (height, width) of two different multiples of `multiple`."""
    steps = math.ceil(_PROBE_SIDE / multiple)
    return steps * multiple, (steps + 1) * multiple


def run_probe(network: Network, size: Size, device: torch.device) -> Tensor:
    """Features of one normalised noise image of `size` (height, width), the same in every call."""
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(noise.to(device))


def measure_grid(name: str, network: Network, reduction: int, native: Size, device: torch.device) -> Grid:
    """Find the sizes that a network takes and the grid that it gives by trial, not by declaration.

    Args:
        name: the backbone, for the message.
        network: normalised float32 [1, 3, H, W] -> features.
        reduction: pixels per feature as declared; multiples of this are tried first.
        native: (height, width) that the network was made for, tried last.
    Raises:
        UsageError: no size gives a [1, C, h, w] grid with a whole stride.
    """
    multiples = dict.fromkeys((reduction, math.lcm(reduction, 32)))
    attempts = [(multiple, probe_size(multiple)) for multiple in multiples]
    failure = ""
    for multiple, size in [*attempts, (None, native)]:
        try:
            features = run_probe(network, size, device)
        except Exception as error:  # a model that can't take a size says so in any way it likes
            failure = first_line(error)
            continue
        if features.ndim != 4:
            failure = f"its features have the shape {tuple(features.shape)}"
            continue
        height, width = features.shape[-2:]
        stride = size[0] // height
        if size == (height * stride, width * stride):
            return Grid(features.shape[1], stride, multiple or stride, None if multiple else size)
        failure = f"{size} pixels give a grid of {(height, width)}, which is not a whole stride"
    raise UsageError(f"{name} can't be used as a backbone: {failure}")
