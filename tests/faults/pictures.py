"""Makers of pictures that are odd, damaged or none at all; the table of what becomes of them is in the test."""

from __future__ import annotations

import io
import os
import socket
import sqlite3
import struct
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

Maker = Callable[[Path], None]

SIZE = (12, 16)  # (height, width) of whatever is a picture and has no other size
NOISE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
PHOTO = Image.fromarray(NOISE)
FRAMES = [PHOTO.rotate(angle) for angle in (0, 90, 180)]
LARGE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> Maker:
    """Writes a picture in a format, whatever the suffix."""
    return lambda path: image.save(path, kind, **options)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes that `saved` writes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def holding(data: bytes) -> Maker:
    """Writes bytes."""
    return lambda path: void(path.write_bytes(data))


def cut(kind: str, part: float = 0.6) -> Maker:
    """Writes the first part of a picture."""
    data = encoded(LARGE, kind)
    return holding(data[: int(len(data) * part)])


def link_to(target: str) -> Maker:
    """A symbolic link."""
    return lambda path: path.symlink_to(target)


def nothing(path: Path) -> None:
    """No such file."""


def void(_: object) -> None:
    """Forget a result."""


def sparse(size: int) -> Maker:
    """A file that takes no room on the disk, whatever its size."""

    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


def unix_socket(path: Path) -> None:
    """A socket: bound by a relative name, as absolute ones have a limit that temporary folders exceed."""
    folder = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.fchdir(folder)
        os.close(folder)


def unreadable(path: Path) -> None:
    """A picture without permissions."""
    PHOTO.save(path, "PNG")
    path.chmod(0)


def png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = SIZE, pixels: bytes | None = None) -> bytes:
    """A PNG with further chunks before its pixels, and of any size that its header may claim."""
    if pixels is None:
        pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in NOISE))
    header = struct.pack(">IIBBBBB", size[1], size[0], 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, parts))


def chunk(part: tuple[bytes, bytes]) -> bytes:
    kind, body = part
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_wrong_sum(kind: bytes) -> bytes:
    """A PNG with one chunk whose checksum is wrong."""
    data = bytearray(png((b"tEXt", b"Title\0words")))
    start = data.index(kind)
    length = struct.unpack(">I", data[start - 4 : start])[0]
    data[start + 4 + length] ^= 0xFF
    return bytes(data)


TEXT_BOMB = png((b"zTXt", b"Comment\0\0" + zlib.compress(bytes(30_000_000), 9)))
PROFILE_BOMB = png((b"iCCP", b"ICC\0\0" + zlib.compress(bytes(30_000_000), 9)))
BROKEN_TEXT = png((b"zTXt", b"Comment\0\0no zlib stream"))


def jpeg_with(segment: bytes) -> bytes:
    """A JPEG with an APP1 segment."""
    data = encoded(PHOTO, "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def huge_jpeg() -> bytes:
    """A JPEG that claims 65535 x 65535 pixels."""
    data = bytearray(encoded(PHOTO, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = b"\xff" * 4
    return bytes(data)


def rotated(orientation: int) -> Maker:
    """A PNG whose EXIF block says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(PHOTO, "PNG", exif=exif)


def upside_down_bmp() -> bytes:
    """A BMP of negative height: its first row is the top."""
    data = bytearray(encoded(PHOTO, "BMP"))
    data[22:26] = struct.pack("<i", -SIZE[0])
    return bytes(data)


def tiff_loop() -> bytes:
    """A TIFF whose only page says that it is followed by itself."""
    data = bytearray(encoded(PHOTO, "TIFF"))
    first = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[first : first + 2])[0]
    end = first + 2 + 12 * entries
    data[end : end + 4] = struct.pack("<I", first)
    return bytes(data)


def deep(values: float, dtype: type) -> Image.Image:
    """Grey of 16 or 32 bits."""
    return Image.fromarray(np.full(SIZE, values, dtype))


def palette_with_transparency() -> Image.Image:
    image = PHOTO.quantize(8)
    image.info["transparency"] = 3
    return image


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", encoded(PHOTO, "PNG"))
    return buffer.getvalue()


def tar_file(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"), io.BytesIO())


def npy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, NOISE)
    return buffer.getvalue()


def sqlite_file(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pictures (name TEXT)")
    connection.close()


def sound(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(400))


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MP4 = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"isom", 512, b"isom", b"mp41") + bytes(200)
HEIC = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic") + bytes(200)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\n(never) print\nshowpage\n%%EOF\n"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="16" height="12"><rect/></svg>'
PDF = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"
