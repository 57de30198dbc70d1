"""The main job: picture, backbone, upsampler, result. The one place that joins the parts."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.backbones import Backbone, BackboneConfig, load_backbone
from featup_cli.config import ImplicitConfig
from featup_cli.environment import choose_device, describe_device, versions
from featup_cli.errors import UsageError
from featup_cli.io.atomic import atomic_path
from featup_cli.io.images import DEFAULT_MAX_PIXELS, Picture, as_picture, load_image
from featup_cli.io.pictures import save_png
from featup_cli.io.tensors import save_features
from featup_cli.pca import fit_pca
from featup_cli.shapes import resolve_network_size, resolve_output_size
from featup_cli.upsamplers.base import Announce, Details, Progress, Upsampler, check_method, make_upsampler, no_progress
from featup_cli.upsamplers.implicit.saved import FittedModel, load_model, save_model
from featup_cli.visualization import feature_picture

PIXEL_CONVENTION = "cell centres at half units (align_corners=False); [C, H, W]; first row is the top"
FACTORED_COMPONENTS = 128


@dataclass(frozen=True)
class Upsampling:
    """What to do with each picture; fields are those of `featup upsample`."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: str = "implicit"
    implicit: ImplicitConfig = field(default_factory=ImplicitConfig)
    resize: str | int | None = None
    output_size: str | tuple[int, int] | None = None
    device: str = "auto"
    seed: int = 0
    max_pixels: int = DEFAULT_MAX_PIXELS
    upsampler: str = "auto"
    allow_other_backbone: bool = False


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


class Pipeline:
    """A backbone and an upsampler, loaded once, and what to do with each picture.

    Args:
        settings: what to do.
        backbone: one that is loaded already.
        announce: told of downloads; None for silence.
    Raises:
        UsageError, WeightsError: the settings can't be obeyed, or weights can't be had.
    """

    def __init__(
        self, settings: Upsampling, backbone: Backbone | None = None, announce: Announce | None = None
    ) -> None:
        check_method(settings.method, settings.upsampler)
        self.settings = settings
        self.device = backbone.device if backbone is not None else choose_device(settings.device)
        self.device_name = describe_device(self.device)
        self.backbone = backbone or load_backbone(settings.backbone, self.device)
        # Implicit FeatUp is made anew for each picture, as it needs the size of the network's input.
        self._upsampler: Upsampler | None = None
        if settings.method != "implicit":
            self._upsampler = make_upsampler(
                settings.method, backbone=self.backbone, upsampler=settings.upsampler,
                allow_other_backbone=settings.allow_other_backbone, offline=settings.backbone.offline,
                announce=announce,
            )  # fmt: skip

    def run(self, image: Any, progress: Progress = no_progress) -> Result:
        """Upsample the features of one picture.

        Args:
            image: path, Pillow image, array or tensor (see `as_picture`).
            progress: called as the work goes on.
        Raises:
            InputError: the picture can't be read; UsageError: a size can't be obeyed.
        """
        settings, backbone = self.settings, self.backbone
        picture = load_image(image, settings.max_pixels) if isinstance(image, (str, Path)) else as_picture(image)
        network = resolve_network_size(
            picture.size, settings.resize, backbone.native_size, backbone.patch_multiple, backbone.fixed_size,
            picture.source or "image",
        )  # fmt: skip
        grid = (network[0] // backbone.stride, network[1] // backbone.stride)
        output = resolve_output_size(settings.output_size, picture.size, network, grid)
        start = time.perf_counter()
        lr_feats = backbone(picture.resized(network)[None])
        upsampler = self._upsampler or make_upsampler(
            settings.method, backbone=backbone, network_size=network, config=settings.implicit, seed=settings.seed,
            progress=progress,
        )  # fmt: skip
        with torch.no_grad():
            hr_feats = upsampler(picture.tensor()[None].to(self.device), lr_feats, output)
        seconds = time.perf_counter() - start
        details = upsampler.details
        provenance = {
            "input": {"path": picture.source, "sha256": picture.sha256, "size": list(picture.size)},
            "backbone": backbone.describe(),
            "method": settings.method,
            "settings": asdict(settings.implicit) if settings.method == "implicit" else {},
            "upsampler": getattr(upsampler, "provenance", None),
            "seed": settings.seed,
            "network_size": list(network), "output_size": list(output), "grid": list(grid),
            "patch_size": backbone.stride, "pixel_convention": PIXEL_CONVENTION,
            "versions": versions(), "device": self.device_name,
            "seconds": round(seconds, 3), "scores": details.scores,
        }  # fmt: skip
        return Result(
            hr_feats[0].cpu(), lr_feats[0].cpu(), picture, details, provenance, getattr(upsampler, "model", None)
        )


def upsample(
    image: Any,
    *,
    backbone: str | BackboneConfig | Backbone = "tiny",
    method: str = "implicit",
    resize: str | int | None = None,
    output_size: str | tuple[int, int] | None = None,
    implicit: ImplicitConfig | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = no_progress,
    upsampler: Path | str = "auto",
    allow_other_backbone: bool = False,
) -> Result:
    """Features per pixel of one picture: what `featup upsample` does, in memory and silent.

    Args:
        image: path, Pillow image, uint8 [H, W, 3] or float tensor [3, H, W] in [0, 1].
        backbone: name, settings, or a loaded backbone to use again.
        method: nearest, bilinear, bicubic, jbu, resfu or implicit.
        resize: network input, a short side or `HxW`; None for the backbone's own.
        output_size: `image`, `HxW`, (H, W), a factor such as `8x`, or None for the network input's size.
        implicit: settings of that method.
        device: auto, cpu, cuda, ...
        seed: the same seed on the same device gives the same result.
        progress: called with (stage, done, total, score).
        upsampler: weights of jbu and resfu: `auto`, a released name or a file, as for `make_upsampler`.
        allow_other_backbone: accept weights for another backbone with as many channels.
    Raises:
        FeatUpError: one of its subclasses; the message says what to do.
    """
    loaded = backbone if isinstance(backbone, Backbone) else None
    config = (
        backbone
        if isinstance(backbone, BackboneConfig)
        else BackboneConfig(name=str(getattr(backbone, "name", backbone)))
    )
    settings = Upsampling(
        config, method, implicit or ImplicitConfig(), resize, output_size, device, seed, upsampler=str(upsampler),
        allow_other_backbone=allow_other_backbone,
    )  # fmt: skip
    return Pipeline(settings, loaded).run(image, progress)


def render(
    model: Path | str | FittedModel,
    *,
    output_size: str | tuple[int, int] | None = None,
    image: Path | str | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> Result:
    """Features of any size from a fitted model.

    Args:
        model: file of `featup upsample --save-model`, or the model of a result.
        output_size: as for `upsample`; `image` means the size of the original picture.
        image: the original picture, for finer edges than the reduced copy in the model.
    Raises:
        InputError: no such model; UsageError: an unusable size.
    """
    fitted, provenance = (model, {}) if isinstance(model, FittedModel) else load_model(Path(model))
    original = tuple(provenance.get("input", {}).get("size") or fitted.guidance.size)
    output = resolve_output_size(output_size, (original[0], original[1]), fitted.network_size, fitted.grid)
    where = choose_device(device)
    picture = load_image(image) if image is not None else fitted.guidance
    start = time.perf_counter()
    features = fitted.to(where).render(picture.tensor().to(where), output, progress)
    seconds = time.perf_counter() - start
    record = provenance | {
        "output_size": list(output), "seconds": round(seconds, 3),
        "device": describe_device(where), "versions": versions(),
    }  # fmt: skip
    return Result(features.cpu(), None, picture, Details(), record, fitted)
