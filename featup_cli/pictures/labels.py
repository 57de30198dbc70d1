"""Pictures whose pixels are numbers: labels, ids of regions, depths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from featup_cli.core.errors import InputError, one_line
from featup_cli.core.shapes import DEFAULT_MAX_PIXELS
from featup_cli.pictures.read import quiet_pillow

NUMBER_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


def read_numbers(path: Path, *, colours: bool = False, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """One number for each pixel [H, W], from a picture of one channel (8 or 16 bits, or palette indices) or a .npy.

    Args:
        path: of the file.
        colours: take colour pictures too; see `colour_numbers`.
        max_pixels: larger pictures are refused from the header.
    Raises:
        InputError: missing, damaged, or of another form.
    """
    try:
        if path.suffix.lower() == ".npy":
            numbers = np.load(path, allow_pickle=False)
        else:
            with quiet_pillow(max_pixels), Image.open(path) as image:
                if image.width * image.height > max_pixels:
                    raise InputError(f"{path}: has more than {max_pixels:,} pixels; raise the limit with --max-pixels")
                numbers = numbers_of(image, str(path), colours)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise InputError(f"{path}: can't be read as labels ({one_line(error)})") from None
    if colours and numbers.ndim == 3:
        numbers = colour_numbers(numbers, str(path))
    if numbers.ndim != 2 or numbers.size == 0:
        raise InputError(f"{path}: expected one number for each pixel, not an array of shape {list(numbers.shape)}")
    return numbers


def numbers_of(image: Image.Image, name: str, colours: bool) -> np.ndarray:
    """Values of a Pillow image; arguments and errors as `read_numbers`."""
    if colours and image.mode in ("RGB", "RGBA"):
        return np.array(image)
    if image.mode not in NUMBER_MODES:
        raise InputError(f"{name}: is a {image.mode} picture; labels have one whole number for each pixel")
    return np.array(image)


def colour_numbers(pixels: np.ndarray, name: str) -> np.ndarray:
    """Colours uint8 [H, W, 3] as one number for each pixel, 65536 red + 256 green + blue: int32 [H, W].

    Raises:
        InputError: another shape or type, or a fourth channel that isn't opaque.
    """
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (3, 4):
        raise InputError(f"{name}: expected numbers [H, W] or colours uint8 [H, W, 3], not {list(pixels.shape)}")
    if (pixels[..., 3:] < 255).any():
        raise InputError(f"{name}: has transparent pixels, which are no colour; save it without transparency")
    red, green, blue = np.moveaxis(pixels[..., :3], 2, 0).astype(np.int32)
    numbers: np.ndarray = (red << 16) + (green << 8) + blue
    return numbers
