"""Feature files: safetensors with the features, what the upsampler learned, and how they were made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featup_cli.core.errors import InputError, OutputError, ShapeError
from featup_cli.io.safetensors import Header, Stored, read_header, read_tensors, refusing_others

FORMAT = "featup-1"
MAX_NESTING = 50  # of the JSON in its metadata
LAYOUTS = {
    "features": "C H W",
    "lr_features": "C h w",
    "uncertainty": "h w",
    "saliency": "h w",
    "kernels": "N k k",
    "coefficients": "K H W",
    "basis": "K C",
    "mean": "C",
}
OPTIONAL = ("lr_features", "uncertainty", "saliency", "kernels")
FACTORS = ("coefficients", "basis", "mean")
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


@dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds.

    Attributes:
        features: [C, H, W], upsampled.
        lr_features: [C, h, w], the backbone's own.
        uncertainty: [h, w], predicted spread of each token.
        saliency: [h', w'], saliency of the attention downsampler, at any size.
        kernels: its weight and bias kernel [2, k, k], or the bias kernel alone [1, k, k].
        provenance: how the features were made; empty for files that other programs wrote.
        path: the file that was read, if any.
    """

    features: Tensor
    lr_features: Tensor | None = None
    uncertainty: Tensor | None = None
    saliency: Tensor | None = None
    kernels: Tensor | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


def _non_finite(tensor: Tensor, low: float, high: float) -> int:
    """How many values are NaN or infinite, given their range; never a full-size temporary."""
    if math.isfinite(low) and math.isfinite(high):
        return 0
    return sum(int((~torch.isfinite(part)).sum()) for part in tensor.split(16))


def check_storable(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise unless a tensor has the rank of its layout and `dtype` can hold its values.

    Raises:
        ShapeError: another rank, or an empty tensor.
        OutputError: values that are NaN, infinite, or too large for `dtype`.
    """
    tensor, layout = tensor.detach(), LAYOUTS[name]
    if tensor.ndim != len(layout.split()) or tensor.numel() == 0:
        raise ShapeError(f"{name} must be [{layout}] and not empty, not {list(tensor.shape)}")
    low, high = map(float, tensor.aminmax())
    if bad := _non_finite(tensor, low, high):
        raise OutputError(f"{path}: not written: {name} holds {bad} NaN or infinite values; try --dtype float32")
    if (peak := max(-low, high)) > torch.finfo(dtype).max:
        short = str(dtype).removeprefix("torch.")
        raise OutputError(
            f"{path}: not written: {name} holds values up to {peak:g}, too large for {short}; "
            "use --dtype bfloat16 or --dtype float32"
        )


def as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as a file holds it: on the CPU, contiguous, of `dtype`."""
    return tensor.detach().to("cpu", dtype).contiguous()


def check_agreement(shapes: Mapping[str, tuple[int, ...]], error: type[Exception], prefix: str) -> None:
    """Tensors of one file must agree on C, the factors on K, and kernels must be one or two."""
    channels = {name: shapes[name][0] for name in ("features", "lr_features", "mean") if name in shapes}
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


def _checked(path: Path, name: str, stored: Stored, layout: str) -> Stored:
    """A stored tensor, without a leading batch of one, if rank, size and dtype are as they must be."""
    shape, rank = stored.shape, len(layout.split())
    if len(shape) == rank + 1 and rank > 1 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != rank:
        raise InputError(f"{path}: {name} is {list(shape)} but must be [{layout}]; reshape it and save the file again")
    if 0 in shape:
        raise InputError(f"{path}: {name} is {list(shape)} and holds no values; make the file again")
    if stored.dtype not in DTYPES:
        raise InputError(f"{path}: {name} has dtype {stored.dtype}; save it as {', '.join(DTYPES)}")
    return replace(stored, shape=shape)


def _features_name(path: Path, tensors: Mapping[str, Stored]) -> str:
    """The one tensor of a file made elsewhere that can only be its features."""
    shapes = {name: stored.shape for name, stored in tensors.items() if name not in OPTIONAL}
    maps = [name for name, shape in shapes.items() if len(shape) == 3 or (len(shape) == 4 and shape[0] == 1)]
    floats = [name for name in maps if tensors[name].dtype in DTYPES]
    if len(floats) == 1:
        return floats[0]
    if len(tensors) == 1:
        return next(iter(tensors))  # the only thing that can have been meant: reading it says what is wrong with it
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:4])
    found = f"{listed}{', ...' if len(shapes) > 4 else ''}" if shapes else "no such tensor"
    raise InputError(f"{path}: holds {found}; name the one [C, H, W] tensor `features` and save the file again")


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


def check_finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor, if all values that were read are numbers."""
    if bad := _non_finite(tensor, *map(float, tensor.aminmax())):
        raise InputError(f"{path}: {name} holds {bad} NaN or infinite values; make the file again with --dtype float32")
    return tensor


def _expand(coefficients: Tensor, basis: Tensor, mean: Tensor) -> Tensor:
    """basis^T coefficients + mean, summed in float32, in the dtype of the coefficients unless that could overflow."""
    dtype = coefficients.dtype
    basis, mean = basis.float(), mean.float()
    peaks = coefficients.flatten(1).abs().amax(1).float()
    bound = (mean.abs() + basis.abs().T @ peaks).max()
    if bool(bound > torch.finfo(dtype).max):
        dtype = torch.float32
    features = torch.empty(len(mean), *coefficients.shape[1:], dtype=dtype)
    for y in range(0, coefficients.shape[1], 64):  # by bands, so that no second full-size map is held
        band = coefficients[:, y : y + 64]
        features[:, y : y + 64] = torch.tensordot(basis, band.float(), ([0], [0])) + mean[:, None, None]
    return features


def load_features(path: Path | str) -> FeatureFile:
    """Read a feature file, or any safetensors file with one feature map.

    Of files that other programs wrote, the tensor named `features` is taken, else the only floating-point one of
    shape [C, H, W] or [1, C, H, W]: the channels come first. Maps in factored storage are expanded. Only the
    safetensors parser ever sees the bytes, so reading never runs code.

    Raises:
        InputError: the file is missing, damaged, of another format, or holds tensors of wrong shape, dtype or values.

    Example:
        >>> import featup_cli as featup, tempfile, torch
        >>> result = featup.upsample(torch.rand(3, 48, 64), method="bilinear", resize=48, output_size="image")
        >>> file = featup.load_features(result.save(f"{tempfile.mkdtemp()}/photo.safetensors"))
        >>> file.features.shape, file.features.dtype, file.provenance["method"]
        (torch.Size([96, 48, 64]), torch.float16, 'bilinear')
    """
    path = Path(path)
    header, provenance = described(path)
    parts = stored_parts(path, header.tensors)
    with refusing_others(path):
        read = read_tensors(path, [name for name, _ in parts.values()])
    tensors = {part: check_finite(path, name, read.pop(name).reshape(s.shape)) for part, (name, s) in parts.items()}
    if "features" not in tensors:
        tensors["features"] = _expand(*(tensors.pop(name) for name in FACTORS))
    return FeatureFile(**tensors, provenance=provenance, path=path)


def read_provenance(path: Path | str) -> dict[str, Any]:
    """How the features were made, without reading them; empty for files that other programs wrote.

    Raises:
        InputError: as `load_features`, as far as the header tells.
    """
    return described(Path(path))[1]
