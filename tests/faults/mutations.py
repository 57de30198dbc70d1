"""Small valid files of every kind, and strategies that change their bytes and the JSON in them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from featup_cli.io.stream import save_features
from featup_cli.ops.pca import PCA
from featup_cli.pictures.read import Picture
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.model import AnchoredNetwork, FeatureBuffer, ImplicitNetwork
from featup_cli.upsamplers.implicit.saved import FittedModel, save_model
from featup_cli.upsamplers.registry import TRAINABLE
from featup_cli.upsamplers.weights.file import build_upsampler, save_upsampler

Files = Mapping[str, bytes]
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def _written(write: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.safetensors"
        write(path)
        return path.read_bytes()


@cache
def feature_files() -> Files:
    """Full and factored storage, every dtype and optional map; and what others may pass for features."""
    provenance = {"input": {"path": "a.png", "size": [12, 16]}, "backbone": {"name": "tiny"}, "scores": {}}
    maps: dict[str, Any] = {"lr_features": torch.rand(3, 1, 2), "uncertainty": torch.rand(1, 2)}
    extras = {"saliency": torch.rand(2, 2), "kernels": torch.rand(2, 3, 3)}
    coefficients, *factors = torch.rand(2, 2, 3), torch.rand(2, 3), torch.rand(3)
    files = {
        "full": _written(lambda p: save_features(
            p, features=torch.rand(3, 2, 3), **maps, **extras, provenance=provenance)),
        "float32": _written(lambda p: save_features(
            p, features=torch.rand(3, 2, 3), provenance=provenance, dtype=torch.float32)),
        "bfloat16": _written(lambda p: save_features(
            p, features=torch.rand(3, 2, 3), provenance=provenance, dtype=torch.bfloat16)),
        "factored": _written(lambda p: save_features(p, coefficients, factors=tuple(factors), provenance=provenance)),
        "torch": _written(lambda p: torch.save({"features": torch.rand(3, 2, 3), "code": print}, p)),
        "pickle": pickle.dumps({"features": PIXELS, "code": print}),
    }  # fmt: skip
    return files


@cache
def model_files() -> Files:
    """Fitted models of every kind of field."""
    size, config = (32, 48), ImplicitConfig(hidden=4, layers=3, frequencies=1, color_frequencies=1, components=2)
    fields = {
        "network": ImplicitNetwork(2, size, config),
        "anchored": AnchoredNetwork(torch.rand(2, 2, 3), torch.rand(6, 2, 3), torch.rand(3, 2, 3), size, config),
        "buffer": FeatureBuffer(torch.rand(2, 4, 6)),
    }
    pca = PCA(torch.rand(3), torch.rand(2, 3), torch.ones(2), torch.ones(2) / 2, 2.0)
    models = {
        name: FittedModel(field, pca, 0.5, Picture(PIXELS), size, (2, 3), config) for name, field in fields.items()
    }
    provenance = {"input": {"path": "a.png", "size": [12, 16]}}
    return {name: _written(lambda p, m=model: save_model(p, m, provenance)) for name, model in models.items()}


@cache
def upsampler_files() -> Files:
    """Weights of every kind of upsampler."""
    metadata = {"backbone": {"name": "tiny", "channels": 6}, "provenance": {}, "card": "text"}
    files = {}
    for method in (*TRAINABLE, "jbu-released"):
        upsampler = build_upsampler(method, {} if method == "jbu" else {"channels": 6})
        files[method] = _written(lambda p, u=upsampler: save_upsampler(p, u, metadata))
    return files


@cache
def picture_files() -> Files:
    """The formats that pictures come in, with metadata, palettes, alpha and frames."""
    photo = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6
    several = {"save_all": True, "append_images": [photo.rotate(180)]}
    variants: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "jpeg": (photo, "JPEG", {"exif": exif}),
        "progressive": (photo, "JPEG", {"progressive": True}),
        "cmyk": (photo.convert("CMYK"), "JPEG", {}),
        "png": (photo, "PNG", {"exif": exif}),
        "deep": (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "palette": (photo.quantize(8), "PNG", {"transparency": 3}),
        "apng": (photo, "PNG", several),
        "gif": (photo, "GIF", {}),
        "frames": (photo, "GIF", several),
        "tiff": (photo, "TIFF", {"exif": exif}),
        "lzw": (photo, "TIFF", {"compression": "tiff_lzw"}),
        "float": (Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF", {}),
        "pages": (photo, "TIFF", several),
        "webp": (photo, "WEBP", {"exif": exif}),
        "lossless": (photo.convert("RGBA"), "WEBP", {"lossless": True}),
        "animation": (photo, "WEBP", several),
        "bmp": (photo, "BMP", {}),
    }
    files = {}
    for name, (image, kind, options) in variants.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


FILES: dict[str, Callable[[], Files]] = {
    "features": feature_files, "models": model_files, "upsamplers": upsampler_files, "pictures": picture_files,
}  # fmt: skip


# Bytes.

_numbers = st.sampled_from([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63])
_blocks = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.builds(lambda n, order: struct.pack(order, n & (2 ** (8 * struct.calcsize(order)) - 1)), _numbers,
              st.sampled_from([">H", "<H", ">I", "<I", "<Q"])),
)  # fmt: skip
_byte_edits = st.tuples(
    st.sampled_from(["overwrite", "overwrite", "insert", "delete", "cut", "repeat"]), st.floats(0, 1), _blocks
)


def _edited(data: bytes, edit: tuple[str, float, bytes]) -> bytes:
    kind, place, block = edit
    at = int(place * len(data))
    head, tail = data[:at], data[at:]
    if kind == "overwrite":
        return head + block + tail[len(block) :]
    if kind == "insert":
        return head + block + tail
    if kind == "delete":
        return head + tail[len(block) :]
    if kind == "repeat":
        return head + tail[: 16 * len(block)] + tail
    return head


def _split(draw: st.DrawFn, kind: str) -> tuple[bytes, bytes]:
    """Header and data of a safetensors file of a kind."""
    files = FILES[kind]()
    data = files[draw(st.sampled_from(sorted(name for name, data in files.items() if data[8:9] == b"{")))]
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return data[8:end], data[end:]


def _joined(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@st.composite
def changed_bytes(draw: st.DrawFn, kind: str) -> bytes:
    """A file of a kind with one to four edits of its bytes."""
    files = FILES[kind]()
    data = files[draw(st.sampled_from(sorted(files)))]
    for edit in draw(st.lists(_byte_edits, min_size=1, max_size=4)):
        data = _edited(data, edit)
    return data


@st.composite
def changed_data(draw: st.DrawFn, kind: str) -> bytes:
    """A safetensors file of a kind whose header is sound, and whose tensors hold other values in some places."""
    header, data = _split(draw, kind)
    for place, block in draw(st.lists(st.tuples(st.floats(0, 1), _blocks), min_size=1, max_size=4)):
        data = _edited(data, ("overwrite", place, block))[: len(data)]
    return _joined(header, data)


# JSON.

_leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 5), st.sampled_from([2**31, 2**40, 2**64, 10**30, -(2**63)]),
    st.floats(), st.text(max_size=4), st.sampled_from(["F16", "F32", "I64", "features", "jbu", "\0", "\udcff"]),
)  # fmt: skip
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_json_edits = st.tuples(
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
    st.sampled_from(["put", "put", "drop", "add", "nest"]),
    _values,
)


def _edited_json(value: Any, steps: list[int], kind: str, new: Any) -> Any:
    """A copy of a JSON value with something else at the place where the steps lead."""
    if not steps or not isinstance(value, (dict, list)) or not value:
        return _nested(value, 400) if kind == "nest" else new
    parts = value if isinstance(value, dict) else dict(enumerate(value))
    key = list(parts)[steps[0] % len(parts)]
    parts = dict(parts)
    if len(steps) == 1 and kind == "drop":
        del parts[key]
    elif len(steps) == 1 and kind == "add":
        parts[str(new)] = parts[key]
    else:
        parts[key] = _edited_json(parts[key], steps[1:], kind, new)
    return parts if isinstance(value, dict) else list(parts.values())


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = {"a": value}
    return value


@st.composite
def changed_json(draw: st.DrawFn, kind: str) -> bytes:
    """A safetensors file of a kind whose header, or the `featup` object in its metadata, has up to three edits."""
    text, rest = _split(draw, kind)
    header = json.loads(text)
    edits = draw(st.lists(_json_edits, min_size=1, max_size=3))
    if draw(st.booleans()):
        for edit in edits:
            header = _edited_json(header, *edit)
    else:
        facts = json.loads(header["__metadata__"]["featup"])
        for edit in edits:
            facts = _edited_json(facts, *edit)
        header["__metadata__"]["featup"] = json.dumps(facts)
    return _joined(json.dumps(header).encode(), rest)
