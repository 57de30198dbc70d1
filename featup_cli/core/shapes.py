"""Sizes of the network's input and of the result."""

from __future__ import annotations

import operator
import re
from typing import Any

from featup_cli.core.errors import UsageError

DEFAULT_MAX_PIXELS = 200_000_000

Size = tuple[int, int]
"""(height, width), in pixels or tokens."""

MAX_TOKENS = 250_000


def describe_size(size: Size, unit: str = "") -> str:
    """`480x640 pixels (height x width)`: how a message for people gives its first or only size."""
    return f"{size[0]}x{size[1]}{unit and f' {unit}'} (height x width)"


def parse_size(text: str, option: str) -> Size:
    """`HxW` to (height, width).

    Raises:
        UsageError: the text has another form, or a side is zero.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX]\s*(\d{1,6})\s*", text)
    if not match or 0 in (int(match[1]), int(match[2])):
        raise UsageError(f"{option} {text}: expected HEIGHTxWIDTH in pixels, for example 448x640")
    return int(match[1]), int(match[2])


def check_pair(value: Any, name: str) -> Size:
    """A (height, width) that was given in Python.

    Raises:
        UsageError: it is no pair of positive integers.
    """
    try:
        height, width = (operator.index(side) for side in value)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise UsageError(f"{name} {value}: expected (height, width), each at least 1")
    return height, width


def network_size(image: Size, short_side: int, multiple: int) -> Size:
    """Network input for a picture: its aspect ratio, short side near `short_side`, sides rounded to `multiple`.

    Args:
        image: (height, width) of the picture.
        short_side: requested short side in pixels.
        multiple: patch size or total stride of the backbone.
    Returns:
        (height, width); neither side is more than half a multiple from the exact aspect ratio (but at least one).
    """
    scale = short_side / min(image)
    height, width = (max(multiple, int(side * scale / multiple + 0.5) * multiple) for side in image)
    return height, width


def resolve_network_size(
    image: Size, resize: str | int | Size | None, native: Size, multiple: int, fixed: Size | None, name: str
) -> Size:
    """Network input from `--resize`: a short side, `HxW` or (height, width), or None for the backbone's own size.

    Raises:
        UsageError: an invalid value, a backbone that takes one size only, or more than `MAX_TOKENS` tokens; the
            message gives `name` (the picture) and the remedy.
    """
    if fixed is not None:
        if resize is not None:
            raise UsageError(f"--resize {resize}: this backbone takes {describe_size(fixed, 'pixels')} only; omit it")
        return fixed
    if not isinstance(resize, str | int | None) or (isinstance(resize, str) and not resize.strip().isdigit()):
        asked = parse_size(resize, "--resize") if isinstance(resize, str) else check_pair(resize, "resize")
        size = (
            max(multiple, round(asked[0] / multiple) * multiple),
            max(multiple, round(asked[1] / multiple) * multiple),
        )
    else:
        short = min(native) if resize is None else int(resize)
        if short < 1:
            raise UsageError(f"--resize {resize}: must be at least 1 pixel")
        size = network_size(image, short, multiple)
    tokens = (size[0] // multiple) * (size[1] // multiple)
    if tokens > MAX_TOKENS:
        raise UsageError(
            f"{name}: {describe_size(image, 'pixels')} need a network input of {size[0]}x{size[1]}, "
            f"{tokens:,} tokens; the limit is {MAX_TOKENS:,}: give a smaller --resize, or crop the picture"
        )
    return size


def check_resize(text: str | None) -> None:
    """Raise UsageError for a `--resize` that fits no picture and no backbone."""
    nominal = (1000, 1000)
    resolve_network_size(nominal, text, nominal, min(nominal), None, "any picture")


def check_output_size(text: str | int | Size | None) -> None:
    """Raise UsageError for an `--output-size` that fits no picture and no backbone."""
    nominal = (1000, 1000)
    resolve_output_size(text, nominal, nominal, nominal)


def resolve_output_size(text: str | int | Size | None, image: Size, network: Size, grid: Size) -> Size:
    """Size of the result from `--output-size`.

    Args:
        text: None (the network input's size), `image` (the picture's), `HxW` or (height, width), one number for a
            square, or a factor of the token grid (`8x`).
        image: (height, width) of the picture.
        network: of the network input.
        grid: of the low-resolution features.
    Raises:
        UsageError: the text has another form.
    """
    if text is None:
        return network
    if isinstance(text, int):
        return check_pair((text, text), "output_size")
    if not isinstance(text, str):
        return check_pair(text, "output_size")
    if text == "image":
        return image
    factor = re.fullmatch(r"(\d+(?:\.\d+)?)x", text)
    if factor:
        height, width = (round(side * float(factor[1])) for side in grid)
        if min(height, width) < 1:
            raise UsageError(f"--output-size {text}: gives less than one pixel for a grid of {describe_size(grid)}")
        return height, width
    try:
        return parse_size(f"{text}x{text}" if text.strip().isdigit() else text, "--output-size")
    except UsageError:
        raise UsageError(
            f"--output-size {text}: expected `image`, HEIGHTxWIDTH (448x640), one number for a square (512), "
            "or a factor of the grid (8x)"
        ) from None
