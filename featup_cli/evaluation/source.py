"""One picture through one backbone and any method: what all evaluations share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.core.checks import checked
from featup_cli.core.errors import FeatUpError, UsageError, WeightsError
from featup_cli.core.progress import Announce, Progress, no_announcement, no_progress
from featup_cli.core.shapes import Size
from featup_cli.core.values import did_you_mean
from featup_cli.core.versions import versions
from featup_cli.engine.pipeline import Look, Pipeline
from featup_cli.engine.settings import Upsampling
from featup_cli.upsamplers.api import Upsampler, is_linear
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.interpolation.method import NEAREST
from featup_cli.upsamplers.registry import METHOD_GROUPS, METHODS, check_method, make_upsampler, method_names

PROJECT_PIXELS = 65_536  # features are projected in blocks of about this many pixels


@checked
@dataclass(frozen=True)
class Request:
    """What can be asked of every evaluation; fields are the options that all commands share.

    Attributes:
        methods: `fast` for all that are available for the backbone and made once for all pictures (others take 10 to
            100 times as long), `all` for those too, or names, comma-separated or as a list.
        backbone: name, settings, or a loaded backbone.
        resize: network input, a short side or `HxW`; None for the backbone's own.
        implicit: settings of the implicit fit, and of the views of `consistency`.
        upsamplers: weights by method, a released name or a file; methods that are left out have the package's own.
        allow_other_backbone: accept weights for another backbone with as many channels.
        device: auto, cpu, cuda, ...
        seed: the same seed on the same device gives the same result.
        fast: let affine maps of the channels come before methods that are linear in the features.
        cache: folder for results of single pictures, from which an interrupted run resumes; None keeps nothing.
        progress: called with (stage, done, total, text).
        note: called with sentences for the user.
    """

    methods: str | Sequence[str] = "fast"
    backbone: str | BackboneConfig | Backbone = "tiny"
    resize: str | int | None = None
    implicit: ImplicitConfig = field(default_factory=ImplicitConfig)
    upsamplers: Mapping[str, str] = field(default_factory=dict)
    allow_other_backbone: bool = False
    device: str = "auto"
    seed: int = 0
    fast: bool = True
    cache: Path | str | None = None
    progress: Progress = no_progress
    note: Announce = no_announcement

    @property
    def config(self) -> BackboneConfig:
        """Settings of the backbone."""
        asked = self.backbone
        return asked if isinstance(asked, BackboneConfig) else BackboneConfig(str(getattr(asked, "name", asked)))

    def upsampling(self, method: str) -> Upsampling:
        """The settings of the pipeline for a method."""
        return Upsampling(
            self.config, method, implicit=self.implicit, resize=self.resize, device=self.device, seed=self.seed,
            allow_other_backbone=self.allow_other_backbone,
        )  # fmt: skip


class FeatureSource:
    """Low-resolution features once for each picture, upsampled by any method.

    Args:
        request: backbone, input size, device, seed, and the settings and weights of methods.
        backbone: a loaded one to use instead of `request.backbone`.
    """

    def __init__(self, request: Request, backbone: Backbone | None = None) -> None:
        for method, weights in request.upsamplers.items():
            check_method(method, weights)
        self.request = request
        loaded = backbone or (request.backbone if isinstance(request.backbone, Backbone) else None)
        # Of the pipeline only the backbone is used; the method is one that costs nothing.
        self.pipeline = Pipeline(request.upsampling(NEAREST.name), loaded)
        self.backbone = self.pipeline.backbone
        self.device = self.pipeline.device
        self._loaded: dict[str, Upsampler] = {}
        self._provenance: dict[str, Any] = {}

    def look(self, picture: Any) -> Look:
        """Run the backbone on a picture; arguments and errors as `Pipeline.look`."""
        return self.pipeline.look(picture)

    def image(self, look: Look) -> Tensor:
        """The picture at its own size, on the backbone's device: [1, 3, H, W] in [0, 1]."""
        return look.picture.tensor()[None].to(self.device)

    def upsampler(self, method: str, network_size: Size | None = None) -> Upsampler:
        """The upsampler by name, for pictures that the backbone sees at `network_size`; None is its own size.

        Raises:
            UsageError, WeightsError: an unknown method, or one that is unavailable for this backbone.
        """
        if method in self._loaded:
            return self._loaded[method]
        asked = self.request
        upsampler = make_upsampler(
            method, backbone=self.backbone, network_size=network_size or self.backbone.native_size,
            config=asked.upsampling(method).method_config, seed=asked.seed, progress=asked.progress,
            upsampler=asked.upsamplers.get(method, "auto"), allow_other_backbone=asked.allow_other_backbone,
            offline=asked.config.offline,
        )  # fmt: skip
        if not METHODS[method].per_picture:
            self._loaded[method] = upsampler
        return upsampler

    @torch.no_grad()
    def features(self, method: str, look: Look, size: Size) -> tuple[Tensor, float]:
        """Upsampled features [C, *size], and the seconds that backbone and upsampler took."""
        image, start = self.image(look), time.perf_counter()
        features = self.upsampler(method, look.plan.network)(image, look.lr_feats, size)[0]
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
        image, start = self.image(look), time.perf_counter()
        upsampler = self.upsampler(method, look.plan.network)
        if self.request.fast and is_linear(upsampler):
            result = upsampler(image, affine(look.lr_feats[0], weight, bias)[None], size)[0]
        else:
            result = affine(upsampler(image, look.lr_feats, size)[0], weight, bias)
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
            "backbone": self.backbone.describe(), "resize": self.request.resize,
            "device": self.pipeline.device_name, "versions": versions(),
        }  # fmt: skip

    def describe_method(self, method: str) -> dict[str, Any]:
        """All that fixes what a method makes of them, as JSON values."""
        if method not in self._provenance:
            self._provenance[method] = getattr(self.upsampler(method), "provenance", None)
        return {
            "method": method, "settings": self.request.upsampling(method).method_settings,
            "upsampler": self._provenance[method], "seed": self.request.seed, "fast": self.request.fast,
        }  # fmt: skip


def affine(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight [K, C] @ features [C, H, W] + bias [K]: [K, H, W]."""
    flat = features.flatten(1)
    blocks = [torch.addmm(bias[:, None], weight, block) for block in flat.split(PROJECT_PIXELS, dim=1)]
    return torch.cat(blocks, 1).view(-1, *features.shape[1:])


def choose_methods(source: FeatureSource) -> list[str]:
    """The methods that are asked for, in that order.

    `fast` and `all` leave out, with a note, what is unavailable for this backbone (no weights for it).

    Raises:
        UsageError: an unknown name, one given twice, or one that is unavailable.
    """
    asked = source.request.methods
    text = asked if isinstance(asked, str) else ",".join(asked)
    names = method_names(text)
    for name in names:
        if name not in METHODS:
            choices = f"choose fast, all, or from {', '.join(METHODS)}{did_you_mean(name, [*METHOD_GROUPS, *METHODS])}"
            raise UsageError(f"--methods {text}: no method {name!r}; {choices}")
        if names.count(name) > 1:
            raise UsageError(f"--methods {text}: {name} is given twice")
    usable: list[str] = []
    left_out: dict[str, list[str]] = {}
    for name in names:
        try:
            source.upsampler(name)
        except FeatUpError as error:
            if text.lower() not in METHOD_GROUPS:
                raise
            why = "no weights for this backbone" if isinstance(error, WeightsError) else "this backbone can't run them"
            left_out.setdefault(why, []).append(name)
        else:
            usable.append(name)
    if left_out:
        listed = "; ".join(f"{', '.join(methods)} ({why})" for why, methods in left_out.items())
        source.request.note(f"note: left out: {listed}; --methods NAME tells more")
    return usable
