"""The result of one picture, in memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from featup_cli.core.checks import checked
from featup_cli.core.errors import OutputError, UsageError
from featup_cli.core.shapes import Size
from featup_cli.engine.bands import Task
from featup_cli.engine.settings import Output
from featup_cli.engine.write import Describe, make_picture, write_files
from featup_cli.io.atomic import atomic_path
from featup_cli.io.header import in_three_lines
from featup_cli.pictures.captions import LOW
from featup_cli.pictures.panels import png_bytes, save_png
from featup_cli.pictures.read import Picture
from featup_cli.upsamplers.api import Details, Rows, RowUpsampler
from featup_cli.upsamplers.implicit.method import METHOD as IMPLICIT
from featup_cli.upsamplers.implicit.saved import FittedModel, save_model


@dataclass(frozen=True)
class Result:
    """Features of one picture. Its files are those that `featup upsample` writes.

    Attributes:
        features: [C, H, W] float32, on the CPU.
        lr_features: [C, h, w], the backbone's own; None for a rendered model.
        picture: the picture that they come from.
        details: scores, extra maps and notes of the method.
        provenance: all that fixes the result, as JSON values.
        model: the fitted network, if the method fits one.
        request: what was asked for, which files record; None for a rendered model.
        class_token: [C], the backbone's token for the whole picture; None if it has none.
    """

    features: Tensor
    lr_features: Tensor | None
    picture: Picture
    details: Details
    provenance: dict[str, Any]
    model: FittedModel | None = None
    request: dict[str, Any] | None = None
    class_token: Tensor | None = None

    def __repr__(self) -> str:
        return in_three_lines("Result", self.features.shape, self.features.dtype, self.provenance)

    def _repr_png_(self) -> bytes:
        """The picture that notebooks show."""
        return png_bytes(self.render_picture())

    @property
    def scores(self) -> dict[str, float]:
        """Numbers that the method reports about itself."""
        return self.details.scores

    @property
    def notes(self) -> list[str]:
        """Sentences that the user should read."""
        return [*self.picture.notes, *self.details.notes]

    @property
    def uncertainty(self) -> Tensor | None:
        """[h, w], predicted spread of each token; None unless the method predicts it."""
        return self.details.maps.get("uncertainty")

    @property
    def seconds(self) -> float:
        """Wall time of backbone and upsampler."""
        return float(self.provenance["seconds"])

    @cached_property
    def factored(self) -> tuple[Tensor, Tensor, Tensor]:
        """`features` as coefficients [K, H, W], basis [K, C] and mean [C]: K principal components of the tokens."""
        pca = self._task().basis()
        return pca.project(self.features), pca.basis, pca.mean

    @checked
    def save(self, path: Path | str, *, dtype: str = "float16", storage: str = "full") -> Path:
        """Write a feature file.

        Args:
            path: of the safetensors file.
            dtype: float16, bfloat16 or float32.
            storage: `full`, or `factored` for coefficients and basis.
        Raises:
            OutputError: it can't be written, or the name is that of another format; nothing is left behind.
        """
        if Path(path).suffix.lower() != ".safetensors":
            raise OutputError(
                f"{path}: features are saved as .safetensors; featup.export_features writes other formats"
            )
        output = Output(dtype, storage)
        write_files(self._task(), Path(path), replace(output, picture=False), self._describe(output))
        return Path(path)

    @checked
    def save_picture(self, path: Path | str, *, basis: Path | str = LOW) -> Path:
        """Write the PCA picture: image, low-resolution features, upsampled features; arguments as `render_picture`."""
        save_png(path, self.render_picture(basis=basis))
        return Path(path)

    @checked
    def render_picture(self, *, basis: Path | str = LOW) -> np.ndarray:
        """The PCA picture as uint8 [H, W, 3]; one basis for low and high resolution.

        Args:
            basis: what the colours are fitted to, as of `visualize`: "low" or "both", or a file with stored colours.
        Raises:
            InputError: the basis can't be used, or is for other features.
        """
        return make_picture(self._task(), self.provenance, basis)

    @checked
    def save_model(self, path: Path | str) -> Path:
        """Write the fitted network.

        Raises:
            UsageError: the method fits none.
        """
        if self.model is None:
            raise UsageError(f"method {self.provenance['method']} fits no model; use implicit")
        with atomic_path(Path(path)) as temporary:
            save_model(temporary, self.model, self._describe(Output(model=True))(self.seconds))
        return Path(path)

    def _describe(self, output: Output) -> Describe:
        request = {} if self.request is None else {"request": self.request | output.record()}
        return lambda seconds: self.provenance | request | {"seconds": self.seconds if seconds else 0.0}

    def _task(self) -> Task:
        """To make the same again, of features that are there already."""
        made, size = _Made(self), (self.features.shape[1], self.features.shape[2])
        lr_feats = self.features[:, :1, :1] if self.lr_features is None else self.lr_features
        pca = self.model.pca if self.model is not None and self.lr_features is None else None
        method = self.provenance.get("method", IMPLICIT.name)
        return Task(made, method, self.picture, lr_feats[None], size, sys.maxsize, pca, self.class_token)


class _Made(RowUpsampler):
    """A result behind the call that all upsamplers share."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.details, self.model, self.features = result.details, result.model, result.features[None]

    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Rows:
        """See `RowUpsampler.prepare`."""
        return lambda top, bottom: self.features[:, :, top:bottom]

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """See `Upsampler.band_bytes`."""
        return 0
