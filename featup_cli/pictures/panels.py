"""Pictures from numbers: false colours, heat maps, overlays, and their sizes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from featup_cli.core.errors import ShapeError
from featup_cli.core.shapes import Size
from featup_cli.io.atomic import atomic_path
from featup_cli.io.replace import SOFTWARE
from featup_cli.ops.pca import PCA, fit_pca

Components = tuple[int, int, int]

PERCENTILES = (1.0, 99.0)
MIN_HEIGHT, MAX_HEIGHT, MAX_WIDTH = 224, 1024, 2048  # of a panel, in pixels
PNG_LEVEL = 4  # half the time of the usual 6, files 3 % larger
INK, FAINT, PAPER, FRAME = (38, 38, 38), (110, 110, 110), (255, 255, 255), (224, 224, 224)

DEFAULT_COMPONENTS: Components = (1, 2, 3)
MAP_TOKENS = 20_000  # of one map, for a fit

# Nine evenly spaced colours of "magma" (S. van der Walt and N. Smith, CC0): lightness rises evenly from dark to light.
_MAGMA = bytes.fromhex("000004 1c1044 4f127b 812581 b5367a e55064 fb8761 fec287 fcfdbf")
MAGMA = np.frombuffer(_MAGMA, np.uint8).reshape(9, 3).astype(np.float64)


def robust_range(samples: Tensor, percentiles: tuple[float, float] = PERCENTILES) -> tuple[Tensor, Tensor]:
    """Low and high end [K] of each row of [K, N], outliers left out: the scale that `pca_rgb` takes."""
    low, high = np.percentile(samples.float().cpu().numpy(), percentiles, axis=1)
    return torch.from_numpy(low).float(), torch.from_numpy(high).float()


def _unit(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Scale low..high to 0..1 and clip; the middle where there is no range."""
    span = high - low
    scaled = (values - low) / np.where(span > 0, span, 1)
    unit: np.ndarray = np.where(span > 0, scaled, 0.5).clip(0, 1)
    return unit


def pca_rgb(projected: Tensor, low: Tensor, high: Tensor) -> np.ndarray:
    """Three components [3, H, W] as colours: uint8 [H, W, 3].

    Args:
        projected: the components that become red, green and blue.
        low: [3], values that become 0; `high` [3] become 255. Share them between maps that are to be compared.
    """
    if projected.ndim != 3 or len(projected) != 3:
        raise ShapeError(f"projected must be [3, H, W], not {list(projected.shape)}")
    unit = _unit(projected.float().permute(1, 2, 0).cpu().numpy(), low.cpu().numpy(), high.cpu().numpy())
    return np.ascontiguousarray((unit * 255).round().astype(np.uint8))


@dataclass(frozen=True)
class Colours:
    """A basis and a scale that turn features into colours, the same for every map.

    Attributes:
        pca: fitted on all maps.
        components: the three that are red, green and blue, counted from 1.
        low: [3], values shown as 0; `high` [3] are shown as 255.
    """

    pca: PCA
    components: Components
    low: Tensor
    high: Tensor

    def picture(self, features: Tensor) -> np.ndarray:
        """Features [C, H, W] as uint8 [H, W, 3]."""
        projected = self.pca.project(features.detach().to(self.pca.mean.device))
        return pca_rgb(_pick(projected, self.components), self.low, self.high)


def _pick(projected: Tensor, components: Components) -> Tensor:
    """Rows of [K, ...] by number. Features of one channel give grey; of two, the third colour is constant."""
    if len(projected) == 1:
        return projected[:1].expand(3, *projected.shape[1:])
    zero = torch.zeros_like(projected[0])
    return torch.stack([projected[number - 1] if number <= len(projected) else zero for number in components])


def sample_tokens(features: Tensor, limit: int) -> Tensor:
    """At most `limit` tokens [N, C] of a map [C, H, W]: float32, on the CPU, the same ones in every run."""
    tokens = features.detach().flatten(1)
    if tokens.shape[1] > limit:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(tokens.shape[1], generator=generator)[:limit].sort().values
        tokens = tokens[:, chosen.to(tokens.device)]
    return tokens.T.float().cpu()


def fit_colours(samples: Sequence[Tensor], components: Components, pca: PCA | None = None) -> Colours:
    """Fit one basis (unless `pca` is given) and one robust scale on the tokens [N, C] of all maps to be compared."""
    tokens = torch.cat(list(samples))
    pca = pca or fit_pca(tokens, max(components))
    low, high = robust_range(_pick(pca.project(tokens).T, components))
    return Colours(pca, components, low, high)


def heatmap(values: Tensor, low: float | None = None, high: float | None = None) -> np.ndarray:
    """A map [h, w] from dark (low) to light (high): uint8 [h, w, 3]; the map's own range unless given."""
    if values.ndim != 2:
        raise ShapeError(f"a heat map must be [h, w], not {list(values.shape)}")
    array = values.detach().double().cpu().numpy()
    bottom, top = np.array(array.min() if low is None else low), np.array(array.max() if high is None else high)
    position = _unit(array, bottom, top) * (len(MAGMA) - 1)
    channels = [np.interp(position, np.arange(len(MAGMA)), MAGMA[:, channel]) for channel in range(3)]
    rgb: np.ndarray = np.stack(channels, -1).round().astype(np.uint8)
    return rgb


def resize_rgb(rgb: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [H, W, 3] at `size` (height, width): tokens stay visible squares when enlarged, smooth when reduced."""
    if rgb.shape[:2] == size:
        return rgb
    enlarged = size[0] >= rgb.shape[0] and size[1] >= rgb.shape[1]
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(rgb).resize((size[1], size[0]), method))


def overlay(rgb: np.ndarray, image: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Blend colours of any size onto an image [H, W, 3]: `alpha` of the colours, the rest image; uint8 [H, W, 3]."""
    colours = resize_rgb(rgb, image.shape[:2]).astype(np.float32)
    return (alpha * colours + (1 - alpha) * image).round().astype(np.uint8)


def panel_size(size: Size) -> Size:
    """The size (height, width) at which a picture of `size` is shown: same shape, neither tiny nor huge."""
    height, width = size
    scale = min(max(height, MIN_HEIGHT), MAX_HEIGHT) / height
    scale = min(scale, max(MAX_WIDTH / width, 1 / height))
    return max(round(height * scale), 1), min(max(round(width * scale), 1), MAX_WIDTH)


def save_png(path: Path | str, rgb: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as PNG that names featup as its software, whole or not at all.

    Raises:
        OutputError: the file can't be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(png_bytes(rgb))


def png_bytes(rgb: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as the bytes of a PNG."""
    facts, stream = PngInfo(), io.BytesIO()
    facts.add_text("Software", SOFTWARE)
    Image.fromarray(rgb).save(stream, format="PNG", compress_level=PNG_LEVEL, pnginfo=facts)
    return stream.getvalue()
