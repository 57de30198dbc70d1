"""The one rule about files that exist. Free of torch.

A file that exists is replaced only if that is asked for, and never if featup did not make it. Pictures and safetensors
files of featup say that they are; of other formats nobody can tell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from featup_cli.core.errors import UsageError

SOFTWARE = "featup"
"""What pictures of featup give as the PNG keyword `Software`."""
HINT = "give --overwrite to replace it, or another --output"
MOVE = "move it, or give another --output"
"""What to do about a file that exists, of featup or not."""
_PNG, _TEXTS = (
    b"\x89PNG\r\n\x1a\n",
    64,
)  # the signature, and more chunks than lie before the pixels of a picture of ours


def refuse_replacing(path: Path | str, overwrite: bool = False, inputs: Iterable[Path | str | None] = ()) -> None:
    """Check, before the work, that a file may be written.

    Args:
        path: of the file; nothing is checked if there is none, or if it is a folder or device.
        overwrite: whether the user asked to replace it.
        inputs: what the command reads, which is never replaced.
    Raises:
        UsageError: the file exists and may not be replaced.
    """
    if not os.path.isfile(path):
        return
    if any(given is not None and os.path.exists(given) and os.path.samefile(path, given) for given in inputs):
        raise UsageError(f"{path}: would be overwritten, but it is an input; choose another --output")
    if not overwrite:
        raise UsageError(f"{path}: exists already; {HINT}")
    if not may_be_ours(path):
        raise UsageError(f"{path}: was not made by featup, so --overwrite doesn't replace it; {MOVE}")


def may_be_ours(path: Path | str) -> bool:
    """Whether featup made a file, or may have: an empty one, or one of a format that doesn't tell."""
    if os.path.getsize(path) == 0:
        return True
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".png":
        return _png_software(path) == SOFTWARE
    if suffix == ".safetensors":
        return _names_us(path)
    return True


def _names_us(path: Path | str) -> bool:
    """Whether the metadata of a safetensors file, which may be cut short behind its header, are of featup."""
    from featup_cli.io.safetensors import HEADER_LIMIT

    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length <= HEADER_LIMIT else b""
    try:
        return SOFTWARE in json.loads(text)["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _png_software(path: Path | str) -> str:
    """What a PNG gives as its software; empty for other files."""
    with open(path, "rb") as stream:
        if stream.read(len(_PNG)) != _PNG:
            return ""
        for _ in range(_TEXTS):
            length, kind = int.from_bytes(stream.read(4), "big"), stream.read(4)
            if kind in (b"IDAT", b""):
                break
            if kind == b"tEXt" and length < 1000:
                keyword, _, text = stream.read(length).partition(b"\0")
                if keyword == b"Software":
                    return text.decode("latin-1")
                stream.seek(4, os.SEEK_CUR)
            else:
                stream.seek(length + 4, os.SEEK_CUR)
    return ""
