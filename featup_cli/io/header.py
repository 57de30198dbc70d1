"""What feature files say of themselves: their maps, and how they were made. Free of torch.

A feature file is a safetensors file with the features, what the upsampler learned, and how they were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featup_cli.core.errors import InputError
from featup_cli.io.safetensors import Header, Stored, read_header, refusing_others

FEATURES, FITTED_MODEL, UPSAMPLER = "featup-1", "featup-implicit-1", "featup-upsampler-1"
COLOUR_BASIS = "featup-colours-1"
"""Formats that this program writes: features, a fitted model, weights of an upsampler, the colours of pictures."""
MAX_NESTING = 50  # of the JSON in its metadata
LAYOUTS = {
    "features": "C H W",
    "lr_features": "C h w",
    "class_token": "C",
    "region_features": "R C",
    "region_ids": "R",
    "region_pixels": "R",
    "uncertainty": "h w",
    "saliency": "h w",
    "kernels": "N k k",
    "coefficients": "K H W",
    "basis": "K C",
    "mean": "C",
}
EXACT = {"class_token": "F32", "region_features": "F32", "region_ids": "I64", "region_pixels": "I64"}
"""Optional tensors that are stored in a type of their own, whatever that of the maps."""
OPTIONAL = ("lr_features", "uncertainty", "saliency", "kernels", *EXACT)
FACTORS = ("coefficients", "basis", "mean")
KINDS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""Types of values: as the format names them, and as PyTorch does."""
WRITTEN = ("float16", "bfloat16", "float32")
"""Types of the values that this program writes."""
STORAGES = ("full", "factored")
COUNTS = {"I64": "int64"}
"""Types of ids and numbers of pixels."""


def parse_object(text: str) -> dict[str, Any] | None:
    """A JSON object; None for any other text, and for one nested so deeply that nothing could print it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    level = [value]
    for _ in range(MAX_NESTING):
        inner = [
            parts.values() if isinstance(parts, dict) else parts for parts in level if isinstance(parts, dict | list)
        ]
        level = [part for parts in inner for part in parts]
    return value if isinstance(value, dict) and not level else None


def described(path: Path) -> tuple[Header, dict[str, Any]]:
    """What a file says about its tensors, and about how they were made: the JSON object in its metadata.

    Raises:
        InputError: the file is missing, damaged, or of another format.
    """
    with refusing_others(path):
        header = read_header(path)
    provenance = parse_object(header.metadata.get("featup", "{}"))
    if provenance is None:
        raise InputError(f"{path}: its metadata under `featup` is not a JSON object, or too deep; make the file again")
    return header, provenance


def in_three_lines(kind: str, shape: Sequence[int], dtype: Any, provenance: Mapping[str, Any]) -> str:
    """For people: what features are, what made them, and of which picture; a fact that isn't recorded is a `?`."""

    def fact(*keys: str) -> Any:
        value: Any = provenance
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return "?" if value is None else " x ".join(map(str, value)) if isinstance(value, list) else value

    return (
        f"{kind}: {str(dtype).removeprefix('torch.')} [{', '.join(map(str, shape))}]\n"
        f"  backbone {fact('backbone', 'name')}, method {fact('method')}\n"
        f"  of {fact('input', 'path') or 'an image in memory'}, {fact('input', 'size')} pixels, seen by the backbone "
        f"at {fact('network_size')}; {fact('seconds')} s on {fact('device')}"
    )


def read_provenance(path: Path | str) -> dict[str, Any]:
    """How the features were made, without reading them; empty for files that other programs wrote.

    Raises:
        InputError: as `load_features`, as far as the header tells.
    """
    return described(Path(path))[1]


def stored_parts(path: Path, tensors: Mapping[str, Stored]) -> dict[str, tuple[str, Stored]]:
    """The tensors that are `features`, or their factors, and the optional maps: name in the file, and where it lies.

    Raises:
        InputError: there are no such tensors, or their shapes or dtypes are wrong.
    """
    if "features" in tensors or not tensors.keys() >= set(FACTORS):
        names = {"features": "features" if "features" in tensors else _features_name(path, tensors)}
    else:
        names = {name: name for name in FACTORS}
    names |= {name: name for name in OPTIONAL if name in tensors}
    parts = {part: (name, _checked(path, name, tensors[name], LAYOUTS[part])) for part, name in names.items()}
    check_agreement({part: stored.shape for part, (_, stored) in parts.items()}, InputError, f"{path}: ")
    return parts


def check_agreement(shapes: Mapping[str, tuple[int, ...]], error: type[Exception], prefix: str) -> None:
    """Tensors of one file must agree on C, the factors on K, and kernels must be one or two."""
    channels = {name: shapes[name][0] for name in ("features", "lr_features", "class_token", "mean") if name in shapes}
    if "region_features" in shapes:
        channels["region_features"] = shapes["region_features"][1]
    if len({shapes[name][0] for name in ("region_features", "region_ids", "region_pixels") if name in shapes}) > 1:
        raise error(f"{prefix}region_features, region_ids and region_pixels differ in the number of regions")
    if "basis" in shapes:
        channels["basis"] = shapes["basis"][1]
        if shapes["basis"][0] != shapes["coefficients"][0]:
            raise error(
                f"{prefix}coefficients have {shapes['coefficients'][0]} components but basis {shapes['basis'][0]}"
            )
    if len(set(channels.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(channels.items()))
        raise error(f"{prefix}channel counts differ: {listed}; they must be equal")
    if shapes.get("kernels", (1,))[0] > 2:
        raise error(f"{prefix}kernels is {list(shapes['kernels'])} but must be 1 or 2 kernels; make the file again")


def _checked(path: Path, name: str, stored: Stored, layout: str) -> Stored:
    """A stored tensor, without a leading batch of one, if rank, size and dtype are as they must be."""
    shape, rank = stored.shape, len(layout.split())
    if len(shape) == rank + 1 and rank > 1 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != rank:
        raise InputError(f"{path}: {name} is {list(shape)} but must be [{layout}]; reshape it and save the file again")
    if 0 in shape:
        raise InputError(f"{path}: {name} is {list(shape)} and holds no values; make the file again")
    kinds = COUNTS if EXACT.get(name) in COUNTS else KINDS
    if stored.dtype not in kinds:
        raise InputError(f"{path}: {name} has dtype {stored.dtype}; save it as {', '.join(kinds)}")
    return replace(stored, shape=shape)


def _features_name(path: Path, tensors: Mapping[str, Stored]) -> str:
    """The one tensor of a file made elsewhere that can only be its features."""
    shapes = {name: stored.shape for name, stored in tensors.items() if name not in OPTIONAL}
    maps = [name for name, shape in shapes.items() if len(shape) == 3 or (len(shape) == 4 and shape[0] == 1)]
    floats = [name for name in maps if tensors[name].dtype in KINDS]
    if len(floats) == 1:
        return floats[0]
    if len(tensors) == 1:
        return next(iter(tensors))  # the only thing that can have been meant: reading it says what is wrong with it
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:4])
    found = f"{listed}{', ...' if len(shapes) > 4 else ''}" if shapes else "no such tensor"
    raise InputError(f"{path}: holds {found}; name the one [C, H, W] tensor `features` and save the file again")
