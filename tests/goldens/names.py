"""Every name that the goldens take from inside the package: a move of files touches this one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import featup_cli
from featup_cli.cli.app import app
from featup_cli.upsamplers.registry import TRAINABLE
from featup_cli.upsamplers.weights.file import build_upsampler

__all__ = ["app", "band_rows", "build_upsampler", "packaged_weights", "shorten_dip", "trained_methods"]


def packaged_weights() -> dict[str, Path]:
    """The package's own weights by file name, wherever they lie in it."""
    return {path.name: path for path in sorted(Path(featup_cli.__file__).parent.rglob("*.safetensors"))}


def band_rows(upsampler: Any, image: Tensor, lr_feats: Tensor, size: tuple[int, int], rows: int) -> Iterator[Tensor]:
    """The result [1, C, H, W] of an upsampler in bands of `rows` rows."""
    bands: Iterator[Tensor] = upsampler.bands(image, lr_feats, size, rows)
    return bands


def shorten_dip(upsampler: Any, steps: int) -> Any:
    """The deep image prior with fewer steps, a setting that no option has."""
    upsampler.config = replace(upsampler.config, steps=steps)
    return upsampler


def trained_methods() -> dict[str, nn.Module]:
    """Modules of all methods with weights, at their default settings for 96 channels."""
    return {name: build_upsampler(name, {} if name == "jbu" else {"channels": 96}) for name in TRAINABLE}
