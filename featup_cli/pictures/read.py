"""Read any picture that Pillow reads as upright 8-bit sRGB."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from featup_cli.core.checks import checked
from featup_cli.core.errors import InputError, one_line
from featup_cli.core.shapes import DEFAULT_MAX_PIXELS, Size, describe_size
from featup_cli.io.files import check_readable
from featup_cli.pictures.arrays import pixels_of
from featup_cli.pictures.formats import picture_formats

# No format spends more on a pixel (four numbers of 64 bits), nor as much on metadata; larger files are not read.
_BYTES_PER_PIXEL, _BYTES_BESIDE = 32, 1 << 28


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture: `pixels` uint8 [H, W, 3], where it came from, and what was noteworthy about it."""

    pixels: np.ndarray
    source: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def bytes(self) -> Tensor:
        """Uint8 [3, H, W], which shares the memory of `pixels`."""
        return torch.from_numpy(self.pixels).permute(2, 0, 1)

    def tensor(self) -> Tensor:
        """Float32 [3, H, W] in [0, 1]."""
        return self.bytes().float().div_(255)

    def resized(self, size: Size) -> Tensor:
        """The whole picture at `size` (height, width), antialiased bicubic: float32 [3, H, W] in [0, 1]."""
        if size == self.size:
            return self.tensor()
        image = Image.fromarray(self.pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        return Picture(np.array(image)).tensor()


class _QuietPillow:
    """Sets Pillow's guard against bombs and silences its warnings; may be entered by several threads at once.

    The guard is a module global that warns up to twice its limit and then raises; ours is checked from the header. Its
    other warnings are of broken metadata, which harm no picture. As both are global, the first thread to enter sets
    them, and the last one to leave sets them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = ExitStack()

    @contextmanager
    def __call__(self, limit: int) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._before.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._before.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = limit
            self._inside += 1
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, limit)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._before.close()


quiet_pillow = _QuietPillow()


def _greyscale_from_deep(image: Image.Image, name: str) -> Image.Image:
    """Scale 16-bit, 32-bit and float greyscale to 8 bits by the range of the type, never by the picture's own."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{name}: holds NaN or infinite pixels; repair the file or save it as 8-bit PNG")
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16") or (image.mode == "I" and top <= 65535):
        values = values / 257.0
    elif image.mode == "F" and top <= 1.0:
        values = values * 255.0
    elif top > 255.0:
        raise InputError(
            f"{name}: {image.mode}-mode pixels up to {top:g} have no known scale; save it as 8- or 16-bit PNG"
        )
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to RGB through the embedded colour profile if there is a usable one, else by Pillow's own formula."""
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            converted = None  # a broken profile is no reason to refuse the picture
        if converted is not None:
            return converted
    return image.convert("RGB")


def upright_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Apply EXIF orientation, composite alpha on white, convert any mode to 8-bit RGB."""
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _greyscale_from_deep(image, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        foreground = image.convert("RGBA")
        canvas = Image.new("RGBA", foreground.size, (255, 255, 255, 255))
        image = Image.alpha_composite(canvas, foreground).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    return _to_srgb(image, profile)


@checked
def load_image(path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a picture from a file.

    Args:
        path: any format that Pillow decodes by itself; of an animation the first frame is taken and a note says so.
        max_pixels: larger pictures are refused from the header, before any pixel is decoded.
    Raises:
        InputError: the file is missing, no picture, damaged, or too large; the message names it.

    Example:
        >>> import tempfile, featup_cli as featup
        >>> from PIL import Image
        >>> path = f"{tempfile.mkdtemp()}/photo.png"
        >>> Image.new("RGB", (64, 48)).save(path)
        >>> picture = featup.load_image(path)
        >>> picture.size, picture.pixels.shape, picture.tensor().shape
        ((48, 64), (48, 64, 3), torch.Size([3, 48, 64]))
    """
    path = Path(path)
    size = check_readable(path, "picture files")
    if size > max_pixels * _BYTES_PER_PIXEL + _BYTES_BESIDE:
        raise InputError(f"{path}: is too large for a picture ({size:,} bytes); raise --max-pixels if it is one")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check its permissions") from None
    return decode_picture(data, str(path), max_pixels)


def decode_picture(data: bytes, name: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """As `load_image`, from the bytes of a file; `name` is for messages."""
    notes: list[str] = []
    too_large = f"has more than {max_pixels:,} pixels; raise the limit with --max-pixels if you trust the file"
    try:
        with quiet_pillow(max_pixels), Image.open(io.BytesIO(data), formats=picture_formats()) as image:
            if image.width * image.height > max_pixels:
                raise InputError(f"{name}: {describe_size((image.height, image.width))} {too_large}")
            # Phones store photographs as MPO with a preview or depth map behind: no animation, not worth a note.
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                notes.append(f"{name}: first of {image.n_frames} frames")
                image.seek(0)
            image.load()
            pixels = np.array(upright_rgb(image, name))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{name}: {too_large}") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: is not a picture that Pillow can read; convert it to PNG or JPEG") from None
    except MemoryError:
        raise InputError(f"{name}: needs more memory than there is, or is damaged; give a smaller picture") from None
    except Exception as error:
        # Decoders raise nearly anything on damaged files; the file is at fault, not the program.
        raise InputError(f"{name}: is damaged ({one_line(error)}); export it again") from None
    return Picture(pixels, name, hashlib.sha256(data).hexdigest(), tuple(notes))


def as_picture(image: Any) -> Picture:
    """Take a picture in any form.

    Args:
        image: a path; the bytes of a file, or one opened with "rb"; a Pillow image; or values, as an array or tensor:
            uint8, or floats in [0, 1], of shape [H, W, 3], [3, H, W], grey [H, W], or a batch of one. Floats may
            overshoot a little, as resized ones do, and are clipped. Values are copied.
    Raises:
        InputError: as `load_image`, or something else, or values of another shape, dtype or range.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, (str, Path)):
        return load_image(image)
    if isinstance(image, (bytes, bytearray, memoryview)) or hasattr(image, "read"):
        return _picture_of_file(image)
    if isinstance(image, Image.Image):
        try:
            pixels = np.array(upright_rgb(image))
        except OSError as error:  # Pillow decodes at first use
            raise InputError(f"the image is damaged ({error}); export it again") from None
    else:
        pixels = pixels_of(image)
    return Picture(pixels, "", hashlib.sha256(pixels.tobytes()).hexdigest())


def _picture_of_file(file: Any) -> Picture:
    """A picture from the bytes of a file, or from an open file."""
    data, name = file.read() if hasattr(file, "read") else file, str(getattr(file, "name", "the image"))
    if isinstance(data, str):
        raise InputError(f'{name}: is opened as text; open it with "rb"')
    return decode_picture(bytes(data), name)
