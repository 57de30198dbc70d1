"""One picture through one backbone and any method: what all evaluations share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featup_cli.backbones.api import Backbone
from featup_cli.core.describe import versions
from featup_cli.core.errors import FeatUpError, UsageError
from featup_cli.core.progress import Announce, Progress, no_progress
from featup_cli.core.shapes import Size
from featup_cli.engine.pipeline import Pipeline, Upsampling
from featup_cli.pictures.read import Picture
from featup_cli.upsamplers.api import Upsampler, is_linear
from featup_cli.upsamplers.interpolation.method import NEAREST
from featup_cli.upsamplers.registry import FEED_FORWARD, METHODS, check_method, make_upsampler

PROJECT_PIXELS = 65_536  # features are projected in blocks of about this many pixels


@dataclass(frozen=True)
class Look:
    """What the backbone says about a picture.

    Attributes:
        picture: as read.
        image: [1, 3, H, W] in [0, 1], the picture at its own size, on the backbone's device.
        network_size: (height, width) at which the backbone saw it.
        lr_feats: [1, C, h, w].
        seconds: that this took.
    """

    picture: Picture
    image: Tensor
    network_size: Size
    lr_feats: Tensor
    seconds: float


class FeatureSource:
    """Low-resolution features once for each picture, upsampled by any method.

    Args:
        settings: backbone, input size, device, seed and the settings of methods; `method` and `output_size` are not
            looked at.
        fast: let affine maps of the channels come before methods that are linear in the features.
        upsamplers: weights of methods by their names, as `Upsampling.upsampler`; those left out have `auto`.
        backbone: a loaded one to use instead of `settings.backbone`.
        progress: called as fits go on.
    """

    def __init__(
        self, settings: Upsampling, *, fast: bool = True, upsamplers: Mapping[str, str] | None = None,
        backbone: Backbone | None = None, progress: Progress = no_progress,
    ) -> None:  # fmt: skip
        for method, weights in (upsamplers or {}).items():
            check_method(method, weights)
        self.settings = settings
        self.fast = fast
        self.progress = progress
        self.upsamplers = dict(upsamplers or {})
        self._loaded: dict[str, Upsampler] = {}
        self._provenance: dict[str, Any] = {}
        # The cheapest method, at the size of the token grid: it is run for the low-resolution features alone.
        self.pipeline = Pipeline(replace(settings, method=NEAREST.name, output_size="1x"), backbone)
        self.backbone = self.pipeline.backbone
        self.device = self.pipeline.device

    def look(self, picture: Path | str) -> Look:
        """Run the backbone on a picture.

        Raises:
            InputError, UsageError: as `Pipeline.run`.
        """
        result = self.pipeline.run(picture)
        assert result.picture is not None
        assert result.lr_features is not None
        height, width = result.provenance["network_size"]
        return Look(
            result.picture, result.picture.tensor()[None].to(self.device), (height, width),
            result.lr_features[None].to(self.device), result.seconds,
        )  # fmt: skip

    def upsampler(self, method: str, network_size: Size) -> Upsampler:
        """The upsampler by name, for pictures that the backbone sees at `network_size`.

        Raises:
            UsageError, WeightsError: an unknown method, or one that can't be had for this backbone.
        """
        if method not in self._loaded:
            upsampler = make_upsampler(
                method, backbone=self.backbone, network_size=network_size,
                config=replace(self.settings, method=method).method_config,
                seed=self.settings.seed, progress=self.progress, upsampler=self.upsamplers.get(method, "auto"),
                allow_other_backbone=self.settings.allow_other_backbone, offline=self.settings.backbone.offline,
            )  # fmt: skip
            if METHODS[method].per_picture:
                return upsampler
            self._loaded[method] = upsampler
        return self._loaded[method]

    @torch.no_grad()
    def features(self, method: str, look: Look, size: Size) -> tuple[Tensor, float]:
        """Upsampled features [C, *size], and the seconds that backbone and upsampler took."""
        start = time.perf_counter()
        features = self.upsampler(method, look.network_size)(look.image, look.lr_feats, size)[0]
        return features, look.seconds + self._seconds_since(start)

    @torch.no_grad()
    def projected(self, method: str, look: Look, weight: Tensor, bias: Tensor, size: Size) -> tuple[Tensor, float]:
        """An affine map of the upsampled features: weight @ features + bias.

        Of methods that are linear in the features the projection is upsampled instead, if `fast`: the same result (a
        constant passes unchanged, since their weights sum to one) at the cost of K channels instead of C.

        Args:
            weight: [K, C]; `bias` [K].
        Returns:
            [K, *size], and the seconds that backbone, upsampler and projection took.
        """
        start = time.perf_counter()
        upsampler = self.upsampler(method, look.network_size)
        if self.fast and is_linear(upsampler):
            result = upsampler(look.image, affine(look.lr_feats[0], weight, bias)[None], size)[0]
        else:
            result = affine(upsampler(look.image, look.lr_feats, size)[0], weight, bias)
        return result, look.seconds + self._seconds_since(start)

    def _seconds_since(self, start: float) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def identity(self) -> dict[str, Any]:
        """All that fixes the low-resolution features, as JSON values: backbone, input size, device, versions."""
        return self.describe() | {"backbone": self.backbone.identity()}

    def describe(self) -> dict[str, Any]:
        """The same for the record, with the precision that was chosen by the first picture."""
        return {
            "backbone": self.backbone.describe(), "resize": self.settings.resize,
            "device": self.pipeline.device_name, "versions": versions(),
        }  # fmt: skip

    def describe_method(self, method: str) -> dict[str, Any]:
        """All that fixes what a method makes of them, as JSON values."""
        if method not in self._provenance:
            upsampler = self.upsampler(method, self.backbone.native_size)
            self._provenance[method] = getattr(upsampler, "provenance", None)
        return {
            "method": method, "settings": replace(self.settings, method=method).method_settings,
            "upsampler": self._provenance[method], "seed": self.settings.seed, "fast": self.fast,
        }  # fmt: skip


def affine(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight [K, C] @ features [C, H, W] + bias [K]: [K, H, W]."""
    flat = features.flatten(1)
    blocks = [torch.addmm(bias[:, None], weight, block) for block in flat.split(PROJECT_PIXELS, dim=1)]
    return torch.cat(blocks, 1).view(-1, *features.shape[1:])


def choose_methods(asked: str | Sequence[str], source: FeatureSource, note: Announce) -> list[str]:
    """Methods from `fast`, `all`, a comma-separated text or a list of names, in that order.

    `fast` are those that are made once for all pictures: others take 10 to 100 times as long.
    `fast` and `all` leave out, with a note, what is unavailable for this backbone (no weights for it).

    Raises:
        UsageError: an unknown name, one given twice, or one that is unavailable.
    """
    text = asked if isinstance(asked, str) else ",".join(asked)
    groups = {"all": list(METHODS), "fast": list(FEED_FORWARD)}
    names = groups.get(text) or [name.strip() for name in text.split(",")]
    for name in names:
        if name not in METHODS:
            raise UsageError(f"--methods {text}: no method {name!r}; choose fast, all, or from {', '.join(METHODS)}")
        if names.count(name) > 1:
            raise UsageError(f"--methods {text}: {name} is given twice")
    usable = []
    for name in names:
        try:
            source.upsampler(name, source.backbone.native_size)
        except FeatUpError as error:
            if text not in groups:
                raise
            note(f"note: left out: {error}")
        else:
            usable.append(name)
    return usable
