"""Pictures given as values, in the layouts that are in use."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.errors import InputError


def pixels_of(image: Any) -> np.ndarray:
    """Values as uint8 [H, W, 3], copied.

    Args:
        image: an array or tensor, uint8 or floats in [0, 1], of shape [H, W, 3], [3, H, W], grey [H, W], or a batch of
            one. Where both sides could be channels, the last are of an array, and the first of a tensor.
    Raises:
        InputError: something else, or another shape, dtype or range.
    """
    if isinstance(image, Tensor):
        return _pixels(image.detach(), (0, 2))
    if not isinstance(image, np.ndarray):
        raise InputError(
            "an image must be one path, Pillow image, array or tensor, or the bytes of a file, "
            f"not {type(image).__name__}"
        )
    try:
        values = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    except (TypeError, ValueError):  # PyTorch has no such type, or no such order of bytes
        raise InputError(f"an image must be uint8 or floats in [0, 1], not {image.dtype}") from None
    return _pixels(values, (2, 0))


def _pixels(values: Tensor, places: tuple[int, int]) -> np.ndarray:
    known = values.is_floating_point() or values.dtype == torch.uint8
    image = values[0] if values.ndim == 4 and len(values) == 1 else values
    place = next((i for i in places if image.ndim == 3 and image.shape[i] == 3), None)
    if not known or image.numel() == 0 or (place is None and image.ndim != 2):
        more = "; a list of its images gives a list of results" if values.ndim == 4 and len(values) > 1 else ""
        raise InputError(
            "an image must be uint8 or floats in [0, 1], [3, H, W], [H, W, 3] or grey [H, W], "
            f"not {list(values.shape)} {str(values.dtype).removeprefix('torch.')}{more}"
        )
    if place is None:
        image = image.expand(3, -1, -1)
    elif place == 2:
        image = image.permute(2, 0, 1)
    if image.dtype != torch.uint8:
        image = _levels(image)
    pixels: np.ndarray = image.cpu().permute(1, 2, 0).clone(memory_format=torch.contiguous_format).numpy()
    return pixels


def _levels(image: Tensor) -> Tensor:
    """Floats in [0, 1] as uint8."""
    low, high = (float(value) for value in image.float().aminmax())
    # Written so that NaN fails too. Bicubic resizing overshoots by up to a tenth; 0-255 and normalised images by more.
    if not (low >= -0.25 and high <= 1.25):
        raise InputError(f"an image of floats must be in [0, 1], not {low:g} to {high:g}; undo its normalisation")
    return image.cpu().float().clamp(0, 1).mul_(255).round_().byte()  # in place: pictures may be large
