"""Feature files: safetensors with the features, what the upsampler learned, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from featup_cli.core.errors import InputError, OutputError, ShapeError
from featup_cli.io.atomic import atomic_path
from featup_cli.io.files import check_readable, unicode_name

FORMAT = "featup-1"
HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors format itself
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


def non_finite(tensor: Tensor) -> int:
    """How many values are NaN or infinite; almost free when none is, and never a full-size temporary."""
    low, high = tensor.aminmax()
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return 0
    return sum([int((~torch.isfinite(part)).sum()) for part in tensor.split(16)])


def check_storable(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise unless a tensor has the rank of its layout and `dtype` can hold its values.

    Raises:
        ShapeError: another rank, or an empty tensor.
        OutputError: values that are NaN, infinite, or too large for `dtype`.
    """
    tensor, layout = tensor.detach(), LAYOUTS[name]
    if tensor.ndim != len(layout.split()) or tensor.numel() == 0:
        raise ShapeError(f"{name} must be [{layout}] and not empty, not {list(tensor.shape)}")
    if bad := non_finite(tensor):
        raise OutputError(f"{path}: not written: {name} holds {bad} NaN or infinite values; try --dtype float32")
    peak = max(abs(float(value)) for value in tensor.aminmax())
    if peak > torch.finfo(dtype).max:
        short = str(dtype).removeprefix("torch.")
        raise OutputError(
            f"{path}: not written: {name} holds values up to {peak:g}, too large for {short}; "
            "use --dtype bfloat16 or --dtype float32"
        )


def as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as a file holds it: on the CPU, contiguous, of `dtype`."""
    return tensor.detach().to("cpu", dtype).contiguous()


def save_features(
    path: Path | str,
    *,
    features: Tensor | None = None,
    factored: tuple[Tensor, Tensor, Tensor] | None = None,
    lr_features: Tensor | None = None,
    uncertainty: Tensor | None = None,
    extras: Mapping[str, Tensor] | None = None,
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a feature file, whole or not at all.

    Args:
        features: [C, H, W]; either these or `factored`.
        factored: coefficients [K, H, W], basis [K, C] and mean [C] with features = basis^T coefficients + mean. The
            file is about C / K times smaller and is expanded on reading.
        lr_features: [C, h, w].
        uncertainty: [h, w].
        extras: `saliency` [h', w'] and `kernels` [1 or 2, k, k].
        provenance: anything that JSON holds; paths are written as text.
        dtype: of the stored maps; basis and mean stay float32.
    Raises:
        OutputError: the file can't be written, or values are NaN, infinite, or too large for `dtype`.
        ShapeError: a tensor of the wrong rank, or both or neither of `features` and `factored`.
    """
    path = Path(path)
    if (features is None) == (factored is None):
        raise ShapeError("give either features or factored, not both or neither")
    given: dict[str, Tensor | None] = {"lr_features": lr_features, "uncertainty": uncertainty, **(extras or {})}
    if unknown := set(given) - set(OPTIONAL):
        raise ShapeError(f"extras hold saliency and kernels only, not {', '.join(sorted(unknown))}")
    given |= {"features": features} if factored is None else dict(zip(FACTORS, factored, strict=True))
    stored: dict[str, Tensor] = {}
    for name, tensor in given.items():
        if tensor is None:
            continue
        kind = torch.float32 if name in ("basis", "mean") else dtype
        check_storable(path, name, tensor, kind)
        stored[name] = as_stored(tensor, kind)
    check_agreement({name: tuple(tensor.shape) for name, tensor in stored.items()}, ShapeError, "")

    seen: set[int] = set()
    for name, tensor in stored.items():
        # safetensors refuses tensors that share memory, such as features that are their own low resolution.
        storage = tensor.untyped_storage().data_ptr()
        stored[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    # All ASCII, as names of files may be no valid Unicode.
    metadata = {"format": FORMAT, "featup": json.dumps(dict(provenance), default=str)}
    with atomic_path(path) as temporary:
        try:
            save_file(stored, temporary, metadata)
        except SafetensorError as error:
            reason = str(error).split("I/O error: ")[-1].split(" (os error")[0]
            raise OutputError(f"{path}: can't be written: {reason}; choose another output") from None


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


def _refuse_other_formats(path: Path) -> None:
    """Say what a file is if it can't be safetensors; its bytes are looked at, never unpickled."""
    size = check_readable(path, "feature files")
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check its permissions") from None
    length = int.from_bytes(head[:8], "little")
    if size > 8 and length <= HEADER_LIMIT and head[8:] == b"{":
        if length > size - 8:
            raise InputError(f"{path}: is cut short inside its header; copy or make it again")
        return
    if head[:1] == b"\x80" or head[:4] == b"PK\x03\x04":
        raise InputError(
            f"{path}: is a pickle or zip archive (PyTorch .pt, .npz), which is never opened since it can run code; "
            "load it in Python where you trust it and save the tensor with safetensors.torch.save_file"
        )
    if head[:6] == b"\x93NUMPY":
        raise InputError(f"{path}: is a NumPy array; save it with safetensors.numpy.save_file as [C, H, W]")
    raise InputError(f"{path}: is not a safetensors file; give files that featup upsample wrote")


@contextmanager
def opened(path: Path, framework: str = "np") -> Iterator[Any]:
    """A safetensors file whose header is sound; whatever else is given is refused in one line.

    Tensors are read with the framework `pt`, which can't open files larger than memory.
    """
    _refuse_other_formats(path)
    try:
        with unicode_name(path) as name, safe_open(name, framework=framework) as file:
            yield file
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise InputError(f"{path}: is damaged or cut short ({reason}); copy or make it again") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check the file") from None
    except RuntimeError as error:
        if "unable to mmap" not in str(error):
            raise
        raise InputError(f"{path}: is larger than memory; read parts of it with featup_cli.open_features") from None


def parse_object(text: str) -> dict[str, Any] | None:
    """A JSON object; None for any other text, and for one nested so deeply that nothing could print it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            part for parts in level if isinstance(parts, (dict, list))
            for part in (parts.values() if isinstance(parts, dict) else parts)
        ]  # fmt: skip
    return value if isinstance(value, dict) and not level else None


def stored_provenance(path: Path, file: Any) -> dict[str, Any]:
    """How the features of an open file were made."""
    provenance = parse_object((file.metadata() or {}).get("featup", "{}"))
    if provenance is None:
        raise InputError(f"{path}: its metadata under `featup` is not a JSON object, or too deep; make the file again")
    return provenance


def checked_shape(path: Path, file: Any, name: str, layout: str) -> list[int]:
    """Shape of a stored tensor, without a leading batch of one, if rank, size and dtype are as they must be."""
    stored = file.get_slice(name)
    shape, dtype = list(stored.get_shape()), stored.get_dtype()
    rank = len(layout.split())
    if len(shape) == rank + 1 and rank > 1 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != rank:
        raise InputError(f"{path}: {name} is {shape} but must be [{layout}]; reshape it and save the file again")
    if 0 in shape:
        raise InputError(f"{path}: {name} is {shape} and holds no values; make the file again")
    if dtype not in DTYPES:
        raise InputError(f"{path}: {name} has dtype {dtype}; save it as {', '.join(DTYPES)}")
    return shape


def check_finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor, if all values that were read are numbers."""
    if bad := non_finite(tensor):
        raise InputError(f"{path}: {name} holds {bad} NaN or infinite values; make the file again with --dtype float32")
    return tensor


def _read(path: Path, file: Any, name: str, layout: str) -> Tensor:
    shape = checked_shape(path, file, name, layout)
    return check_finite(path, name, file.get_tensor(name).reshape(shape))


def _features_name(path: Path, file: Any) -> str:
    """The one tensor of a file made elsewhere that can only be its features."""
    names: list[str] = list(file.keys())
    shapes = {name: list(file.get_slice(name).get_shape()) for name in names if name not in OPTIONAL}
    maps = [name for name, shape in shapes.items() if len(shape) == 3 or (len(shape) == 4 and shape[0] == 1)]
    floats = [name for name in maps if file.get_slice(name).get_dtype() in DTYPES]
    if len(floats) == 1:
        return floats[0]
    if len(names) == 1:
        return names[0]  # the only thing that can have been meant: reading it says what is wrong with it
    listed = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:4])
    found = f"{listed}{', ...' if len(shapes) > 4 else ''}" if shapes else "no such tensor"
    raise InputError(f"{path}: holds {found}; name the one [C, H, W] tensor `features` and save the file again")


def stored_parts(path: Path, file: Any) -> dict[str, str]:
    """Which stored tensor is `features`, or which are its factors, and the optional maps: stored names by part."""
    names = set(file.keys())
    if "features" in names or not names.issuperset(FACTORS):
        parts = {"features": "features" if "features" in names else _features_name(path, file)}
    else:
        parts = {name: name for name in FACTORS}
    return parts | {name: name for name in OPTIONAL if name in names}


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
    """
    path = Path(path)
    with opened(path, "pt") as file:
        provenance = stored_provenance(path, file)
        tensors = {part: _read(path, file, name, LAYOUTS[part]) for part, name in stored_parts(path, file).items()}
    check_agreement({name: tuple(tensor.shape) for name, tensor in tensors.items()}, InputError, f"{path}: ")
    if "features" not in tensors:
        tensors["features"] = _expand(*(tensors.pop(name) for name in FACTORS))
    return FeatureFile(**tensors, provenance=provenance, path=path)


def read_provenance(path: Path | str) -> dict[str, Any]:
    """How the features were made, without reading them; empty for files that other programs wrote.

    Raises:
        InputError: as `load_features`, as far as the header tells.
    """
    path = Path(path)
    with opened(path) as file:
        return stored_provenance(path, file)
