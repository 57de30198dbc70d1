"""The operations of the kernels as things to measure: random inputs, the tap loop, and parts to check."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from featup_kernels import adaptive_conv, neighbor_mix, range_taps, resampled_conv
from featup_kernels.range_taps.reference import spatial_logits
from featup_kernels.resampled_conv import Axis
from featup_kernels.resampled_conv.axis import window_axis
from torch import Tensor

from featup_cli.benchmark.settings import Case
from featup_cli.upsamplers.jbu.stage import whole

# Values in one float64 buffer of the reference while a result is checked (128 MiB); it has a handful of them.
CHECKED_VALUES = 2**24


@dataclass(frozen=True)
class Part:
    """A part of the inputs that fixes a part of the output: slices of each input and of the output."""

    about: str
    inputs: tuple[tuple[slice, ...], ...]
    output: tuple[slice, ...]


def _ends(size: int, length: int) -> list[slice]:
    """The first and the last `length` of `size`; only one slice if that is all."""
    if length >= size:
        return [slice(0, size)]
    return [slice(0, length), slice(size - length, size)]


def _parts(case: Case, channels: int, rows: int) -> list[tuple[str, slice, slice, slice]]:
    """What to check: all, or the first and last batch element, channels and rows, as (about, batch, channels, rows)."""
    if (channels, rows) == (case.channels, case.height) and case.batch * _values(
        case, channels, rows
    ) <= CHECKED_VALUES:
        return [("whole", slice(0, case.batch), slice(0, channels), slice(0, rows))]
    ends = [_ends(case.batch, 1), _ends(case.channels, channels), _ends(case.height, rows)]
    parts = []
    for last in range(max(len(e) for e in ends)):
        batch, chosen, band = (e[last * (len(e) - 1)] for e in ends)
        cuts = (
            ("batch elements", batch, case.batch), ("channels", chosen, case.channels), ("rows", band, case.height)
        )  # fmt: skip
        about = ", ".join(
            f"{name} {cut.start}-{cut.stop - 1} of {size}" for name, cut, size in cuts if cut.stop - cut.start < size
        )
        parts.append((about, batch, chosen, band))
    return parts


def _values(case: Case, channels: int, rows: int) -> int:
    """Values that the reference unfolds for one batch element."""
    return channels * rows * case.width * case.window**2


def _fitting(size: int, values_of_one: int) -> int:
    """How many of `size` can be checked at once."""
    return max(1, min(size, CHECKED_VALUES // values_of_one))


def tap_loop(source: Tensor, taps: Tensor, step: int = 1) -> Tensor:
    """The eager loop over taps: one product of maps for each, `step` pixels apart; nothing is unfolded."""
    side = math.isqrt(taps.shape[1])
    height, width = taps.shape[2:]
    out = taps.new_zeros(source.shape[0], source.shape[1], height, width)
    for t in range(side * side):
        dy, dx = t // side * step, t % side * step
        out = out + taps[:, t : t + 1] * source[:, :, dy : dy + height, dx : dx + width]
    return out


class Operation(ABC):
    """One operation; `input_names` are those of its differentiable inputs."""

    input_names: tuple[str, ...]

    @abstractmethod
    def make_inputs(self, case: Case, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Normal noise, scaled so that the output (of `range_taps`: the scores) is of order one."""

    @abstractmethod
    def run(self, case: Case, backend: str, *inputs: Tensor) -> Tensor:
        """The kernel itself."""

    @abstractmethod
    def loop(self, case: Case, *inputs: Tensor) -> Tensor:
        """The same result by an eager loop over taps."""

    @abstractmethod
    def input_values(self, case: Case) -> int:
        """Number of values of the inputs; scalars aside."""

    def output_shape(self, case: Case) -> tuple[int, int, int, int]:
        """Shape of the output."""
        return case.batch, case.channels, case.height, case.width

    @abstractmethod
    def parts(self, case: Case) -> list[Part]:
        """What to check: all, or what is small enough at both ends of the tensors."""


def _noise(case: Case, generator: torch.Generator, *shape: int) -> Tensor:
    dtype = getattr(torch, case.dtype)
    return torch.randn(case.batch, *shape, dtype=dtype, device=generator.device, generator=generator)


def _noise_taps(case: Case, generator: torch.Generator) -> Tensor:
    return _noise(case, generator, case.window**2, case.height, case.width).div_(case.window)


class AdaptiveConv(Operation):
    """`adaptive_conv(source, taps)`."""

    input_names = ("source", "taps")

    def make_inputs(self, case: Case, generator: torch.Generator) -> tuple[Tensor, ...]:
        pad = case.window - 1
        source = _noise(case, generator, case.channels, case.height + pad, case.width + pad)
        return source, _noise_taps(case, generator)

    def run(self, case: Case, backend: str, *inputs: Tensor) -> Tensor:
        source, taps = inputs
        return adaptive_conv(source, taps, backend=backend)

    def loop(self, case: Case, *inputs: Tensor) -> Tensor:
        source, taps = inputs
        return tap_loop(source, taps)

    def input_values(self, case: Case) -> int:
        pad = case.window - 1
        source = case.channels * (case.height + pad) * (case.width + pad)
        return case.batch * (source + case.window**2 * case.height * case.width)

    def parts(self, case: Case) -> list[Part]:
        # Channels are independent, and a band of rows needs its halo only.
        channels = _fitting(case.channels, _values(case, 1, case.height))
        rows = _fitting(case.height, _values(case, channels, 1))
        return [
            Part(
                about,
                ((batch, chosen, slice(band.start, band.stop + case.window - 1)), (batch, slice(None), band)),
                (batch, chosen, band),
            )
            for about, batch, chosen, band in _parts(case, channels, rows)
        ]


class NeighborMix(Operation):
    """`neighbor_mix(lr_source, taps)`."""

    input_names = ("lr_source", "taps")

    def make_inputs(self, case: Case, generator: torch.Generator) -> tuple[Tensor, ...]:
        low = _noise(case, generator, case.channels, case.height // case.scale, case.width // case.scale)
        return low, _noise_taps(case, generator)

    def run(self, case: Case, backend: str, *inputs: Tensor) -> Tensor:
        source, taps = inputs
        return neighbor_mix(source, taps, backend=backend)

    def loop(self, case: Case, *inputs: Tensor) -> Tensor:
        # The bilinear upsampling is materialised, once; its neighbours lie `scale` pixels apart.
        source, taps = inputs
        padded = F.pad(source, (case.window // 2,) * 4, mode="replicate")
        size = (padded.shape[2] * case.scale, padded.shape[3] * case.scale)
        upsampled = F.interpolate(padded, size=size, mode="bilinear", align_corners=False)
        return tap_loop(upsampled, taps, case.scale)

    def input_values(self, case: Case) -> int:
        pixels = case.batch * case.height * case.width
        return pixels * case.channels // case.scale**2 + pixels * case.window**2

    def parts(self, case: Case) -> list[Part]:
        # Channels are independent; rows are not cut, since positions depend on the whole height.
        channels = _fitting(case.channels, _values(case, 1, case.height))
        return [
            Part(about, ((batch, chosen), (batch,)), (batch, chosen))
            for about, batch, chosen, _ in _parts(case, channels, case.height)
        ]


class ResampledConv(NeighborMix):
    """`resampled_conv(source, taps, rows, columns)`: bicubic, with the padding of a stage of JBU."""

    input_names = ("source", "taps")

    def axes(self, case: Case, source: Tensor) -> list[Axis]:
        """How the windows read the rows and the columns of the source."""
        size = (case.height, case.width)
        return [
            window_axis("bicubic", size, dim, case.window // 2, cells, source)
            for dim, cells in enumerate(source.shape[2:])
        ]

    def run(self, case: Case, backend: str, *inputs: Tensor) -> Tensor:
        source, taps = inputs
        return resampled_conv(source, taps, *self.axes(case, source), backend=backend)

    def loop(self, case: Case, *inputs: Tensor) -> Tensor:
        source, taps = inputs
        size = (case.height, case.width)
        fine = F.interpolate(source, size=size, mode="bicubic", align_corners=False)
        return tap_loop(whole(size, case.window // 2).pad(fine), taps)


class RangeTaps(Operation):
    """`range_taps(keys, radius, temperature, spatial)`; the channels are those of the keys."""

    input_names = ("keys", "temperature", "spatial")

    def make_inputs(self, case: Case, generator: torch.Generator) -> tuple[Tensor, ...]:
        pad = case.window - 1
        keys = _noise(case, generator, case.channels, case.height + pad, case.width + pad)
        return keys.mul_(case.channels**-0.25), *(torch.ones((), device=keys.device) for _ in range(2))

    def run(self, case: Case, backend: str, *inputs: Tensor) -> Tensor:
        keys, temperature, spatial = inputs
        return range_taps(keys, case.window // 2, temperature, spatial, backend=backend)

    def loop(self, case: Case, *inputs: Tensor) -> Tensor:
        keys, temperature, spatial = inputs
        radius = case.window // 2
        height, width = keys.shape[2] - 2 * radius, keys.shape[3] - 2 * radius
        centre = keys[:, :, radius : radius + height, radius : radius + width]
        similarity = torch.stack(
            [
                (keys[:, :, dy : dy + height, dx : dx + width] * centre).sum(1)
                for dy in range(case.window)
                for dx in range(case.window)
            ],
            1,
        )
        scores = temperature * similarity + spatial_logits(radius, spatial)[:, None, None]
        return scores.softmax(1).to(keys.dtype)

    def input_values(self, case: Case) -> int:
        pad = case.window - 1
        return case.batch * case.channels * (case.height + pad) * (case.width + pad)

    def output_shape(self, case: Case) -> tuple[int, int, int, int]:
        return case.batch, case.window**2, case.height, case.width

    def parts(self, case: Case) -> list[Part]:
        rows = _fitting(case.height, _values(case, case.channels, 1))
        return [
            Part(
                about,
                ((batch, slice(None), slice(band.start, band.stop + case.window - 1)), (), ()),
                (batch, slice(None), band),
            )
            for about, batch, _, band in _parts(case, case.channels, rows)
        ]


OPERATIONS: dict[str, Operation] = {
    "adaptive_conv": AdaptiveConv(), "neighbor_mix": NeighborMix(), "range_taps": RangeTaps(),
    "resampled_conv": ResampledConv(),
}  # fmt: skip
