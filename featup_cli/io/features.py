"""Features read from files, and what may be written to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featup_cli.core.checks import checked
from featup_cli.core.errors import InputError, OutputError, ShapeError
from featup_cli.core.references import resolve
from featup_cli.io.header import COUNTS, FACTORS, KINDS, LAYOUTS, described, in_three_lines, stored_parts
from featup_cli.io.safetensors import read_tensors, refusing_others

DTYPES = {name: getattr(torch, kind) for name, kind in (KINDS | COUNTS).items()}


@dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds.

    Attributes:
        features: [C, H, W], upsampled.
        lr_features: [C, h, w], the backbone's own.
        class_token: [C], the backbone's token for the whole picture.
        region_features: [R, C], mean of the features over each region of a mask.
        region_ids: int64 [R], label values, or colours as 65536 red + 256 green + blue.
        region_pixels: int64 [R], pixels of each region in the feature map.
        uncertainty: [h, w], predicted spread of each token.
        saliency: [h', w'], saliency of the attention downsampler, at any size.
        kernels: its weight and bias kernel [2, k, k], or the bias kernel alone [1, k, k].
        provenance: how the features were made; empty for files that other programs wrote.
        path: the file that was read, if any.
    """

    features: Tensor
    lr_features: Tensor | None = None
    class_token: Tensor | None = None
    region_features: Tensor | None = None
    region_ids: Tensor | None = None
    region_pixels: Tensor | None = None
    uncertainty: Tensor | None = None
    saliency: Tensor | None = None
    kernels: Tensor | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __repr__(self) -> str:
        return in_three_lines("FeatureFile", self.features.shape, self.features.dtype, self.provenance)

    def _repr_png_(self) -> bytes:
        """The picture that notebooks show: that of `featup.visualize`, which lies above and is found by its name."""
        png: bytes = resolve("featup_cli.pictures.visualize:png_of_file")(self)
        return png


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
    if not dtype.is_floating_point:
        return
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


@checked
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
