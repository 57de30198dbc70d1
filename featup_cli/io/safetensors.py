"""Safetensors files: what a file is by its first bytes, what its header says, and its tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError, safe_open

from featup_cli.core.errors import InputError
from featup_cli.io.files import check_readable, unicode_name

if TYPE_CHECKING:  # headers are read without torch, whose import takes seconds
    from torch import Tensor

HEADER_LIMIT = 100_000_000  # bytes; the limit of the format itself
_REFUSALS = {
    "cut": "is cut short inside its header; copy or make it again",
    "pickle": "is a pickle or zip archive (PyTorch .pt, .npz), which is never opened since it can run code; "
    "load it in Python where you trust it and save the tensor with safetensors.torch.save_file",
    "numpy": "is a NumPy array; save it with safetensors.numpy.save_file as [C, H, W]",
    "other": "is not a safetensors file; give files that featup upsample wrote",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its dtype as the format names it (`F16`), its shape, and its first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Header:
    """What a file says: tensors by name, sorted, and its metadata."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]


def sniff(path: Path) -> Literal["safetensors", "cut", "pickle", "numpy", "other"]:
    """What a file is by its first bytes; `cut`: ends inside a safetensors header; `pickle`: or a zip archive of such.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as stream:
        head, size = stream.read(9), os.fstat(stream.fileno()).st_size
    length = int.from_bytes(head[:8], "little")
    if head[8:] == b"{" and length <= HEADER_LIMIT:  # an 8-byte length and then JSON
        return "safetensors" if length <= size - 8 else "cut"
    if head[:1] == b"\x80" or head[:4] == b"PK\x03\x04":
        return "pickle"
    return "numpy" if head[:6] == b"\x93NUMPY" else "other"


def read_header(path: Path) -> Header:
    """What a safetensors file says about its tensors, checked by the format's own parser.

    Raises:
        SafetensorError: it is damaged; OSError: it can't be read.
    """
    with unicode_name(path) as name, safe_open(name, framework="np"):
        pass
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", None) or {}
        tensors = {
            name: Stored(entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in sorted(entries.items())
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # another program wrote it in the meantime
        raise SafetensorError("it changed while it was read") from None
    return Header(tensors, metadata)


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, all unless `names` are given.

    Raises:
        SafetensorError: it is damaged; OSError: it can't be read.
    """
    with unicode_name(path) as name, safe_open(name, framework="pt") as file:
        return {each: file.get_tensor(each) for each in (file.keys() if names is None else names)}


@contextmanager
def refusing_others(path: Path) -> Iterator[None]:
    """Refuse in one line what is no safetensors file, and one that turns out to be damaged while the block reads it.

    Raises:
        InputError: the message says what the file is.
    """
    check_readable(path, "feature files")
    try:
        if (kind := sniff(path)) != "safetensors":
            raise InputError(f"{path}: {_REFUSALS[kind]}")
        yield
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise InputError(f"{path}: is damaged or cut short ({reason}); copy or make it again") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check the file") from None
    except RuntimeError as error:
        if "unable to mmap" not in str(error):
            raise
        raise InputError(f"{path}: is larger than memory; read parts of it with featup_cli.open_features") from None
