"""Which files are pictures. Free of torch."""

from __future__ import annotations

from PIL import ExifTags, Image, ImageFile

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".npy")
"""Suffixes of pictures of numbers, whose compression loses nothing."""


def picture_formats() -> tuple[str, ...]:
    """Formats that Pillow decodes by itself, by its names.

    Of stubs and MPEG it knows no more than the name; PostScript would be run by another program.
    """
    Image.init()

    def decoded(kind: str) -> bool:
        factory = Image.OPEN[kind][0]
        stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
        return not stub and kind not in ("MPEG", "EPS")

    return tuple(filter(decoded, Image.OPEN))


def picture_size(path: str) -> tuple[int, int] | None:
    """(height, width) of an upright picture by its header; None for what is no picture."""
    try:
        with Image.open(path, formats=picture_formats()) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # decoders raise nearly anything; reading the picture will say what is wrong
        return None


def picture_suffixes() -> frozenset[str]:
    """Lower-case suffixes of these formats: what counts as a picture in a folder. The one list of them."""
    formats = set(picture_formats())
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats)
