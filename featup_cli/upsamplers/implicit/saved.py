"""The compact result of a fit: a network that gives features of any size, in memory and as a file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from featup_cli.core.errors import FeatUpError, InputError, one_line
from featup_cli.core.progress import Progress, no_progress
from featup_cli.core.settings import recorded
from featup_cli.core.shapes import Size
from featup_cli.io.header import FITTED_MODEL, described
from featup_cli.io.safetensors import read_tensors, refusing_others
from featup_cli.multiview.precision import matmul_precision
from featup_cli.ops.pca import PCA
from featup_cli.ops.taps import picture_rows
from featup_cli.pictures.read import Picture, decode_picture
from featup_cli.upsamplers.api import FLOAT, Rows, RowUpsampler
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.model import AnchoredNetwork, FeatureBuffer, ImplicitNetwork

CHUNK = 16_384  # positions evaluated at once
SIZE_BUDGET = 1_000_000  # bytes of a model file, as far as the guidance picture can shrink to fit
MIN_PICTURE_BYTES = 48_000
PICTURE_SIDE = 4096  # of the guidance picture at most
MAX_PIXELS = 1_000_000_000  # of the sizes that a file may name


@dataclass(frozen=True)
class FittedModel:
    """A fitted field, the basis of its coefficients, and the picture whose colours guide it.

    Attributes:
        field: maps positions and colours to coefficients.
        pca: basis [K, C] and mean [C] that expand coefficients to features.
        scale: coefficients are `scale` times the field's output.
        guidance: the picture.
        network_size: (height, width) of the backbone's input.
        grid: (h, w) of the tokens.
        config: settings of the fit.
    """

    field: nn.Module
    pca: PCA
    scale: float
    guidance: Picture
    network_size: Size
    grid: Size
    config: ImplicitConfig

    def to(self, device: torch.device) -> FittedModel:
        """The same model with its field on `device`."""
        self.field.to(device)
        return self

    def render(self, picture: Tensor, output_size: Size, progress: Progress = no_progress) -> Tensor:
        """Features [C, H, W] of any size.

        Args:
            picture: [3, H', W'] in [0, 1] of any size, on the field's device; colours are read from it.
            output_size: (height, width).
        """
        features = torch.empty(self.pca.basis.shape[1], *output_size, device=picture.device)
        rows = max(CHUNK // output_size[1], 1)
        for top in range(0, output_size[0], rows):
            bottom = min(top + rows, output_size[0])
            features[:, top:bottom] = self.rows(picture, output_size, top, bottom)
            progress("render", bottom, output_size[0], "")
        return features

    @torch.no_grad()
    def rows(self, picture: Tensor, size: Size, top: int, bottom: int) -> Tensor:
        """Rows `top` to `bottom` of what `render` gives, up to rounding: [C, bottom - top, W]."""
        colors = picture_rows(picture, size, top, bottom).flatten(1).T
        device, (height, width) = colors.device, size
        basis, mean = self.pca.basis.to(device) * self.scale, self.pca.mean.to(device)
        features = torch.empty(basis.shape[1], len(colors), device=device)
        x = (torch.arange(width, device=device) + 0.5) / width
        with matmul_precision(self.config.precision, device):
            for first in range(0, len(colors), CHUNK):
                chunk = torch.arange(first, min(first + CHUNK, len(colors)), device=device)
                y = (torch.div(chunk, width, rounding_mode="floor") + top + 0.5) / height
                position = torch.stack((y, x[chunk % width]), -1)
                features[:, first : first + CHUNK] = (self.field(position, colors[chunk]) @ basis + mean).T
        return features.view(-1, bottom - top, width)


class ModelUpsampler(RowUpsampler):
    """A fitted model behind the call that all upsamplers share; of the features it is given only the shape counts."""

    def __init__(self, model: FittedModel) -> None:
        super().__init__()
        self.model = model

    def whole(self, image: Tensor, lr_feats: Tensor, size: Size) -> Tensor:
        """Features [1, C, *size], guided by `image` [1, 3, H, W]."""
        return self.model.render(image[0], size)[None]

    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Rows:
        """The model, guided by `image` [1, 3, H, W]."""
        return lambda top, bottom: self.model.rows(image[0], size, top, bottom)[None]

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The band, and a chunk of positions."""
        components, channels = self.model.pca.basis.shape
        return rendering_bytes(channels, components, self.model.config, output_size[1], rows)


def rendering_bytes(channels: int, components: int, config: ImplicitConfig, width: int, rows: int) -> int:
    """Estimated peak while a model renders rows: the band, its colours, and a chunk of positions."""
    inputs = 2 + 4 * config.frequencies + 3 + 6 * config.color_frequencies
    # Two layers' values at a time, thrice each; coefficients, and grid look-ups of 16 cells with 64-bit numbers.
    position = 6 * config.hidden + 3 * inputs + 4 * components + 2 * channels + 16 * 6
    return FLOAT * (rows * width * (channels + 4 * 3) + min(CHUNK, rows * width) * position)


def round_to_half(field: nn.Module) -> nn.Module:
    """Round parameters to the half precision in which they are stored, so that a saved model renders the same."""
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.copy_(parameter.half())
    return field


def encode_picture(picture: Picture, budget: int) -> bytes:
    """WebP bytes of a picture: lossless if that fits the budget, else lossy, else smaller and lossy."""
    image = Image.fromarray(picture.pixels)

    def encoded(**options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", **options)
        return buffer.getvalue()

    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC)
    if image.width * image.height <= 2_000_000 and len(data := encoded(lossless=True)) <= budget:
        return data
    while True:
        for quality in (95, 85, 70):
            if len(data := encoded(quality=quality)) <= budget or max(image.size) <= 256:
                return data
        image.thumbnail((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BICUBIC)


def save_model(path: Path, model: FittedModel, provenance: Mapping[str, Any]) -> None:
    """Write a model as safetensors: half-precision weights, float32 basis, the picture as WebP bytes."""
    tensors = {f"field.{name}": t.cpu() for name, t in model.field.state_dict().items()}
    halves = {f"field.{name}" for name, _ in model.field.named_parameters()}
    tensors = {name: (t.half() if name in halves else t).contiguous() for name, t in tensors.items()}
    tensors |= {"pca.basis": model.pca.basis.half().contiguous(), "pca.mean": model.pca.mean.contiguous()}
    weights = sum(t.numel() * t.element_size() for t in tensors.values())
    encoded = encode_picture(model.guidance, max(SIZE_BUDGET - weights - 20_000, MIN_PICTURE_BYTES))
    tensors["guidance"] = torch.from_numpy(np.frombuffer(encoded, np.uint8).copy())
    facts = {
        "scale": model.scale, "network_size": model.network_size, "grid": model.grid,
        "config": recorded(model.config), "provenance": dict(provenance),
    }  # fmt: skip
    save_file(tensors, path, {"format": FITTED_MODEL, "featup": json.dumps(facts)})


def load_model(path: Path | str) -> tuple[FittedModel, dict[str, Any]]:
    """Read a model and its provenance.

    Raises:
        InputError: the file is missing, no model of this program, or damaged.
    """
    path = Path(path)
    header, facts = described(path)
    if header.metadata.get("format") != FITTED_MODEL:
        raise InputError(f"{path}: is not a fitted model; make one with `featup upsample IMAGE --save-model`")
    with refusing_others(path):
        tensors = read_tensors(path)
    try:
        return _assemble(tensors, facts)
    except FeatUpError as error:
        raise InputError(f"{path}: holds unusable settings ({one_line(error)}); fit the model again") from None
    except Exception as error:  # settings that anybody may have written fail in nearly any way
        raise InputError(f"{path}: is damaged or no fitted model ({one_line(error)[:120]}); fit it again") from None


def _assemble(tensors: dict[str, Tensor], facts: dict[str, Any]) -> tuple[FittedModel, dict[str, Any]]:
    config = ImplicitConfig(**facts["config"])
    network_size, grid = _checked_size(facts["network_size"]), _checked_size(facts["grid"])
    basis, mean = tensors["pca.basis"].float(), tensors["pca.mean"].float()
    state = {name.removeprefix("field."): t.float() for name, t in tensors.items() if name.startswith("field.")}
    if any(not bool(torch.isfinite(t).all()) for t in (basis, mean, torch.tensor(facts["scale"]), *state.values())):
        raise ValueError("NaN or infinite values")
    guidance = Picture(decode_picture(tensors["guidance"].numpy().tobytes(), "its picture", PICTURE_SIDE**2).pixels)
    held, asked = sum(t.numel() for t in state.values()), _fewest_numbers(config)
    field: nn.Module
    if list(state) == ["grid"]:
        field = FeatureBuffer(state["grid"])
    elif asked > held:  # a network of that size might not fit in memory
        raise ValueError(f"settings of a network of {asked:,} numbers, but it holds {held:,}")
    elif "grid" in state:
        slope = state.get("slope", torch.zeros(3 * len(basis), 1, 1))
        field = AnchoredNetwork(state["grid"], slope, state["mean_color"], network_size, config)
    else:
        field = ImplicitNetwork(len(basis), network_size, config)
    field.load_state_dict(state)
    with torch.no_grad():
        channels = (field.eval()(torch.zeros(1, 2), torch.zeros(1, 3)) @ basis + mean).shape[1]
    if mean.shape != (channels,):
        raise ValueError(f"{channels} channels but a mean of {list(mean.shape)}")
    spread = torch.ones(len(basis))
    pca = PCA(mean, basis, spread, spread / len(basis), float(len(basis)))
    provenance = facts.get("provenance", {})
    if size := provenance.get("input", {}).get("size"):
        _checked_size(size)
    model = FittedModel(field, pca, float(facts["scale"]), guidance, network_size, grid, config)
    return model, dict(provenance)


def _fewest_numbers(config: ImplicitConfig) -> int:
    """A lower bound of the numbers in a network of these settings."""
    colors = 6 * config.color_frequencies if config.color_features else 0
    weights = config.hidden * (4 * config.frequencies + colors + (config.layers - 2) * config.hidden)
    return max(weights, config.color_frequencies)


def _checked_size(size: Any) -> Size:
    height, width = size
    if not (isinstance(height, int) and isinstance(width, int) and 0 < height * width <= MAX_PIXELS and height > 0):
        raise ValueError(f"a size of {size}")
    return height, width
