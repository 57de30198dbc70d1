"""A stack of stages as what it is for a given picture: a linear map of the low-resolution features.

The weights of all stages depend on the picture only, and all channels share them. So channels can pass in chunks, and
when there are many more channels than low-resolution pixels it is cheaper to pass the identity basis of those pixels
and to finish by a matrix product. A few rows of a stage need a few more of the stage before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from featup_kernels import adaptive_conv, resampled_conv
from featup_kernels.resampled_conv.axis import Axis, window_axis, window_places
from featup_kernels.resampled_conv.op import resampled_conv_runs_fused
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.ops.taps import RowTaps, guidance_rows, interpolate, interpolating_rows, resize_rows
from featup_cli.upsamplers.jbu.plan import basis_is_cheaper, part_rows, unfused_chunk, whole_stages
from featup_cli.upsamplers.jbu.stage import Band

Weigh = Callable[[int, Tensor, Band], Tensor]
"""Weights [B, k * k, rows, W] of a band of the stage with this number, of the guidance [B, 3, ..., W] that it sees."""


class Stack:
    """The stack for a given picture and features.

    Args:
        image: [B, 3, H', W'] in [0, 1] at any size, or uint8.
        feats: [B, C, h, w].
        sizes: output grids of the stages.
        radius: of their windows.
        resize: `bicubic`, `bilinear` or `nearest`, before each filter.
        weigh: makes the weights.
    """

    def __init__(
        self, image: Tensor, feats: Tensor, sizes: Sequence[Size], radius: int, resize: str, weigh: Weigh
    ) -> None:
        self.image, self.sizes, self.radius, self.resize, self.weigh = image, sizes, radius, resize, weigh
        batch, channels, height, width = feats.shape
        self.mix: Tensor | None = None
        if basis_is_cheaper(channels, height * width, (2 * radius + 1) ** 2, sizes):
            self.mix, channels = feats.flatten(2), height * width
            basis = torch.eye(channels, dtype=feats.dtype, device=feats.device)
            feats = basis.view(1, channels, height, width).expand(batch, -1, -1, -1)
        self.early = whole_stages(batch * channels, sizes)
        self.source = self._pass(feats, range(self.early), 0, sizes[self.early - 1][0]) if self.early else feats

    def __call__(self, top: int, bottom: int) -> Tensor:
        """Rows `top` to `bottom` of the result: [B, C, bottom - top, W]."""
        out = self._pass(self.source, range(self.early, len(self.sizes)), top, bottom)
        return out if self.mix is None else torch.bmm(self.mix, out.flatten(2)).unflatten(2, out.shape[2:])

    def _pass(self, source: Tensor, stages: range, top: int, bottom: int) -> Tensor:
        """Rows of the result of the last of some stages, of which the first reads `source`.

        Without gradients the memory besides the result stays near half of it when there are a few hundred channels.
        """
        reads: list[tuple[Band, Axis]] = []
        for i in reversed(stages):
            band = Band(self.sizes[i], top, bottom, self.radius)
            cells = self.sizes[i - 1][0] if i > stages.start else source.shape[2]
            rows, seen = window_rows(self.resize, band, cells, source)
            reads.insert(0, (band, rows))
            top, bottom = seen.start, seen.stop
        steps = [(band, rows, self._weigh(i, band)) for i, (band, rows) in zip(stages, reads, strict=True)]
        source = source[:, :, top:bottom]
        taps, channels = steps[-1][2], source.shape[1]
        chunk = channels if resampled_conv_runs_fused(source, taps) else unfused_chunk(channels)
        if torch.is_grad_enabled() or chunk == channels:
            return self._filter(source, steps)
        out = source.new_empty(*source.shape[:2], *taps.shape[2:])
        for part, target in zip(source.split(chunk, dim=1), out.split(chunk, dim=1), strict=True):
            target.copy_(self._filter(part, steps))
        return out

    def _filter(self, source: Tensor, steps: Sequence[tuple[Band, Axis, Tensor]]) -> Tensor:
        for band, rows, taps in steps:
            source = filter_band(source, taps, self.resize, band, rows)
        return source

    def _weigh(self, number: int, band: Band) -> Tensor:
        """Weights of a band of a stage; without gradients a few rows at a time, as keys are many maps."""
        rows = part_rows(band.size[1])
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            rows = band.bottom - band.top
        out: Tensor | None = None
        for top in range(band.top, band.bottom, rows):
            # Not `replace`, which the compiler of PyTorch 2.6 does not know.
            part = Band(band.size, top, min(top + rows, band.bottom), band.radius)
            # Also for the whole: the kernels of coarse stages are so sharp that the last digit of the guidance counts.
            taps = self.weigh(number, guidance_rows(self.image, band.size, part.first, part.stop), part)
            if taps.shape[2] == band.bottom - band.top:
                return taps
            if out is None:
                out = taps.new_empty(*taps.shape[:2], band.bottom - band.top, band.size[1])
            out[:, :, top - band.top : part.bottom - band.top] = taps
        assert out is not None
        return out


def filter_band(source: Tensor, taps: Tensor, resize: str, band: Band, rows: Axis) -> Tensor:
    """Bring the rows that the windows of a band see to its grid, and filter them there.

    Args:
        source: [B, C, n, w], what `rows` read.
        taps: [B, k * k, rows of the band, W].
        resize: `bicubic`, `bilinear` or `nearest`.
        band: of the result.
        rows: of `window_rows`.
    Returns:
        [B, C, rows of the band, W].
    """
    taps = taps.to(source.dtype)
    if resampled_conv_runs_fused(source, taps):
        return resampled_conv(
            source, taps, rows, window_axis(resize, band.size, 1, band.radius, source.shape[3], source)
        )
    if band.is_whole:
        return adaptive_conv(band.pad(interpolate(source, band.size, resize)), taps)
    fine = resize_rows(source, RowTaps(*rows, source.shape[2]), band.size[1], resize)
    return adaptive_conv(band.pad_columns(fine), taps)


def window_rows(resize: str, band: Band, cells: int, like: Tensor) -> tuple[Axis, slice]:
    """How the padded windows of a band read the rows of a source of `cells` that is resized to its grid.

    `like` gives dtype and device. Returns that, for the part of the source that they read, and which part it is.
    """
    if band.is_whole:
        return window_axis(resize, band.size, 0, band.radius, cells, like), slice(0, cells)
    part, seen = interpolating_rows(resize, band.size[0], cells, like).part(band.first, band.stop)
    places = window_places(band.size, 0, band.radius, band.top, band.bottom) - band.first
    return Axis(*(values[places.to(like.device)] for values in (part.cells, part.weights))), seen
