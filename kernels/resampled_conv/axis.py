"""How windows read a resized source along one axis: the cells that each place mixes, and the places they see."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Axis(NamedTuple):
    """The reads of each place along an axis: the sum of `weights` [n, T] times the source's `cells`, int64 [n, T].

    T may be 1 (nearest), 2 (linear), 4 (cubic) or any other number.
    """

    cells: Tensor
    weights: Tensor


def place_centres(size: int, cells: int, like: Tensor) -> Tensor:
    """Centres [size] of output places in cells. Rounded as PyTorch does, so that both read the same cells."""
    work = torch.promote_types(like.dtype, torch.float32)  # of bytes too
    scale = torch.tensor(cells, dtype=work, device=like.device) / size
    return (torch.arange(size, dtype=work, device=like.device) + 0.5) * scale


def cubic_kernel(distance: Tensor, a: float) -> Tensor:
    """The kernel of cubic convolution (Keys, 1981) at distances of at least 0; zero from 2 on."""
    near = ((a + 2) * distance - (a + 3)) * distance.square() + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))


def resized_axis(mode: str, size: int, cells: int, like: Tensor) -> Axis:
    """The axis of `F.interpolate` from `cells` to `size` places; `mode` is nearest (exact), bilinear or bicubic.

    `like` gives dtype and device.
    """
    positions = place_centres(size, cells, like)
    if mode == "nearest":
        return Axis(positions.long().clamp(max=cells - 1)[:, None], torch.ones_like(positions)[:, None])
    positions = positions - 0.5
    if mode == "bilinear":
        positions = positions.clamp(min=0)
    first = positions.floor()
    share = (positions - first)[:, None]
    if mode == "bilinear":
        offsets, weights = torch.arange(2, device=like.device), torch.cat((1 - share, share), 1)
    else:
        offsets = torch.arange(-1, 3, device=like.device)
        weights = cubic_kernel((share - offsets).abs(), -0.75)
    return Axis((first.long()[:, None] + offsets).clamp(0, cells - 1), weights)


def window_places(size: tuple[int, int], dim: int, radius: int, start: int = 0, stop: int | None = None) -> Tensor:
    """The places that windows around `start` to `stop` (the end) of a grid see, along dimension `dim`: [n + 2 radius].

    The border reflects; a grid too small for that, along either dimension, repeats its outer places.
    """
    last = size[dim] - 1
    place = torch.arange(start - radius, (size[dim] if stop is None else stop) + radius)
    if min(size) > radius:
        place = last - (last - place.abs()).abs()
    return place.clamp(0, last)


def window_axis(mode: str, size: tuple[int, int], dim: int, radius: int, cells: int, like: Tensor) -> Axis:
    """How windows of a whole grid of `size` read a source of `cells` that is resized, along dimension `dim`.

    `like` gives dtype and device.
    """
    # A compiler's tensors must not be kept.
    make = _make_axis if torch.compiler.is_compiling() else _kept_axis
    return make(mode, size, dim, radius, cells, like.dtype, like.device)


def _make_axis(
    mode: str, size: tuple[int, int], dim: int, radius: int, cells: int, dtype: torch.dtype, device: torch.device
) -> Axis:
    axis = resized_axis(mode, size[dim], cells, torch.empty(0, dtype=dtype, device=device))
    seen = window_places(size, dim, radius).to(device)
    return Axis(axis.cells[seen], axis.weights[seen])


# Thirty small kernels: on a GPU they would take longer than the filter of a small grid.
_kept_axis = lru_cache(maxsize=64)(_make_axis)
