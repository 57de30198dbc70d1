"""The result of one picture, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.errors import UsageError
from featup_cli.engine.write import FACTORED_COMPONENTS
from featup_cli.io.atomic import atomic_path
from featup_cli.io.tensors import save_features
from featup_cli.ops.pca import fit_pca
from featup_cli.pictures.panels import save_png
from featup_cli.pictures.read import Picture
from featup_cli.pictures.visualize import feature_picture
from featup_cli.upsamplers.api import Details
from featup_cli.upsamplers.implicit.saved import FittedModel, save_model


@dataclass(frozen=True)
class Result:
    """Features of one picture.

    Attributes:
        features: [C, H, W] float32, on the CPU.
        lr_features: [C, h, w], the backbone's own; None for a rendered model.
        picture: the picture that they come from; None if it isn't at hand.
        details: scores, extra maps and notes of the method.
        provenance: all that fixes the result, as JSON values.
        model: the fitted network, if the method fits one.
    """

    features: Tensor
    lr_features: Tensor | None
    picture: Picture | None
    details: Details
    provenance: dict[str, Any]
    model: FittedModel | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Numbers that the method reports about itself."""
        return self.details.scores

    @property
    def notes(self) -> list[str]:
        """Sentences that the user should read."""
        return [*(self.picture.notes if self.picture else ()), *self.details.notes]

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
        if self.model is not None:
            pca = self.model.pca
        else:
            source = self.features if self.lr_features is None else self.lr_features
            pca = fit_pca(source.flatten(1).T, FACTORED_COMPONENTS)
        return pca.project(self.features), pca.basis, pca.mean

    def save(self, path: Path | str, *, dtype: str = "float16", storage: str = "full") -> Path:
        """Write a feature file.

        Args:
            path: of the safetensors file.
            dtype: float16, bfloat16 or float32.
            storage: `full`, or `factored` for coefficients and basis.
        Raises:
            OutputError: it can't be written; nothing is left behind.
        """
        maps = dict(self.details.maps)
        save_features(
            path,
            features=None if storage == "factored" else self.features,
            factored=self.factored if storage == "factored" else None,
            lr_features=self.lr_features, uncertainty=maps.pop("uncertainty", None), extras=maps,
            provenance=self.provenance | {"storage": storage}, dtype=getattr(torch, dtype),
        )  # fmt: skip
        return Path(path)

    def save_picture(self, path: Path | str) -> Path:
        """Write the PCA picture: image, low-resolution features, upsampled features."""
        save_png(path, self.render_picture())
        return Path(path)

    def render_picture(self) -> np.ndarray:
        """The PCA picture as uint8 [H, W, 3]; one basis for low and high resolution."""
        image = self.picture.pixels if self.picture else None
        return feature_picture(image, self.lr_features, self.features, self.uncertainty)

    def save_model(self, path: Path | str) -> Path:
        """Write the fitted network.

        Raises:
            UsageError: the method fits none.
        """
        if self.model is None:
            raise UsageError(f"method {self.provenance['method']} fits no model; use implicit")
        with atomic_path(Path(path)) as temporary:
            save_model(temporary, self.model, self.provenance)
        return Path(path)
