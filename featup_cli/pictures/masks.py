"""Masks: which region every pixel of a picture belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from featup_cli.core.errors import InputError
from featup_cli.core.shapes import DEFAULT_MAX_PIXELS, Size
from featup_cli.io.digest import file_sha256
from featup_cli.io.files import check_readable, is_missing
from featup_cli.pictures.labels import colour_numbers, numbers_of, read_numbers

MOST_REGIONS = 65_536
_JPEG = b"\xff\xd8\xff"
_TABLE = 2**24  # numbers below are looked up in a table, which sorts nothing


@dataclass(frozen=True)
class Mask:
    """Regions of a picture.

    Attributes:
        ids: int64 [R], ascending: label values, or colours as `colour_numbers` gives them.
        index: uint16 [H, W], the place in `ids` of every pixel's region.
        source: path of its file, if there is one.
        sha256: digest of that file.
        notes: what the user should know.
    """

    ids: np.ndarray
    index: np.ndarray
    source: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.index.shape[0], self.index.shape[1]

    def fitted(self, size: Size, picture: Size) -> Mask:
        """The mask at the size of a result: for each pixel the nearest one by its centre; regions may vanish.

        Args:
            size: (height, width) of the result.
            picture: (height, width) of the whole picture.
        Raises:
            InputError: the mask has neither the size of the result nor the aspect ratio of the picture, to the pixel.
        """
        (height, width), name = self.size, self.source or "the mask"
        # A scale exists that gives both sides of the mask, each to within a pixel.
        shows = abs(height * picture[1] - width * picture[0]) < picture[0] + picture[1]
        if not shows and self.size != size:
            raise InputError(
                f"{name}: has {height}x{width} pixels, but its picture {picture[0]}x{picture[1]} (height x width); "
                "give a mask of the picture's size"
            )
        if self.size == size:
            return self
        places, index = _places(self.index[_nearest(height, size[0])][:, _nearest(width, size[1])])
        notes = self.notes
        if lost := len(self.ids) - len(places):
            at = f"{size[0]}x{size[1]} (height x width)"
            notes = (*notes, f"{name}: {lost} of {len(self.ids)} regions have no pixel at {at} and are left out")
        return replace(self, ids=self.ids[places], index=index, notes=notes)


def load_mask(path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Mask:
    """Read a mask: a picture of labels (8 or 16 bits, palette, black and white), of colours, or a `.npy` of either.

    Raises:
        InputError: missing, damaged, of another form, or of too many regions; the message names it.
    """
    path = Path(path)
    if is_missing(path):
        raise InputError(f"{path}: no such file; each picture needs a mask of its name")
    check_readable(path, "a mask for each picture")
    with path.open("rb") as stream:
        if stream.read(len(_JPEG)) == _JPEG:
            raise InputError(f"{path}: is a JPEG, whose compression changes labels; save the mask as PNG")
    mask = _mask(read_numbers(path, colours=True, max_pixels=max_pixels), str(path))
    return replace(mask, source=str(path), sha256=file_sha256(path))


def as_mask(values: Any) -> Mask:
    """Take a mask in any form.

    Args:
        values: a path, a Pillow image, or an array or tensor: whole numbers or booleans [H, W], colours uint8
            [H, W, 3].
    Raises:
        InputError: as `load_mask`.
    """
    if isinstance(values, Mask):
        return values
    if isinstance(values, (str, Path)):
        return load_mask(values)
    if isinstance(values, Image.Image):
        values = numbers_of(values, "the mask", colours=True)
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray):
        raise InputError(f"a mask must be a path, Pillow image, array or tensor, not {type(values).__name__}")
    if values.ndim == 3:
        values = colour_numbers(values, "the mask")
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"a mask must be [H, W], not {list(values.shape)}")
    return _mask(values, "the mask")


def _mask(numbers: np.ndarray, name: str) -> Mask:
    if numbers.dtype.kind not in "iub":
        raise InputError(f"{name}: a mask holds whole numbers, the ids of regions, not {numbers.dtype}")
    if int(numbers.max()) > np.iinfo(np.int64).max:
        raise InputError(f"{name}: ids of regions must fit 64 bits, not {numbers.max()}")
    ids, index = _places(numbers)
    if len(ids) > MOST_REGIONS:
        raise InputError(f"{name}: has {len(ids):,} regions, {MOST_REGIONS:,} at most; give a picture of labels")
    return Mask(ids, index)


def _places(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, int64 ascending, and the place of each pixel's among them: uint16 if there are so few."""
    if numbers.min() >= 0 and int(numbers.max()) < _TABLE:
        numbers = numbers.astype(np.uint8) if numbers.dtype == bool else numbers
        present = np.zeros(int(numbers.max()) + 1, bool)
        present[numbers] = True
        ids, index = np.flatnonzero(present), (np.cumsum(present) - 1)[numbers]
    else:
        ids, index = np.unique(numbers, return_inverse=True)
    few = np.uint16 if len(ids) <= MOST_REGIONS else np.int64
    return ids.astype(np.int64), index.reshape(numbers.shape).astype(few)


def _nearest(length: int, wanted: int) -> np.ndarray:
    """The pixel of `length` that holds the centre of each of `wanted` cells."""
    indices: np.ndarray = (2 * np.arange(wanted) + 1) * length // (2 * wanted)
    return indices
