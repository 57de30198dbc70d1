"""The call that all upsamplers share, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from featup_cli.config import METHODS, METHODS_WITH_WEIGHTS, ImplicitConfig
from featup_cli.errors import ShapeError, UsageError

Extract = Callable[[Tensor], Tensor]
"""A backbone: images [B, 3, H, W] in [0, 1] to features [B, C, h, w]."""

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, steps done, steps in all, running score as text)."""

Announce = Callable[[str], None]
"""Called with a sentence for the user."""


def no_progress(stage: str, done: int, total: int, score: str) -> None:
    """Report nothing."""


@dataclass
class Details:
    """What a call left besides the features, for the record and the feature file.

    `scores` are numbers worth recording; `maps` extra tensors (`uncertainty` [h, w], `saliency` [h', w'], `kernels`
    [M, k, k]); `notes` sentences that the user should read.
    """

    scores: dict[str, float] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Upsampler(Protocol):
    """An upsampler of features; `details` describes its last call.

    One whose result is a weighted mean of the features it is given, with weights that depend on the picture alone and
    sum to one, says so by the attribute `linear_in_features = True`: then any affine map of the channels (a probe, a
    projection) may come before it instead of after it, with the same result.
    """

    details: Details

    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Upsample features.

        Args:
            image: [B, 3, H, W] in [0, 1], the picture that the features come from, at any size.
            lr_feats: [B, C, h, w].
            output_size: (height, width) of the result, any.
        Returns:
            [B, C, *output_size].
        Raises:
            ShapeError: a tensor of another shape.
        """
        ...


def is_linear(upsampler: Upsampler) -> bool:
    """Whether an affine map of the channels may come before the upsampler instead of after it."""
    return bool(getattr(upsampler, "linear_in_features", False))


def check_inputs(image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> None:
    """Raise ShapeError unless `image` is [B, 3, H, W], `lr_feats` [B, C, h, w] and the size positive."""
    if image.ndim != 4 or image.shape[1] != 3:
        raise ShapeError(f"image must be [B, 3, H, W], not {list(image.shape)}")
    if lr_feats.ndim != 4 or lr_feats.shape[0] != image.shape[0]:
        raise ShapeError(f"lr_feats must be [{image.shape[0]}, C, h, w], not {list(lr_feats.shape)}")
    if len(output_size) != 2 or min(output_size) < 1:
        raise ShapeError(f"output_size must be (height, width) of at least 1, not {output_size}")


def check_method(method: str, upsampler: Path | str = "auto") -> None:
    """Raise UsageError for an unknown method, or for weights (`upsampler`) given to one that has none."""
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}; one of: {', '.join(METHODS)}")
    if str(upsampler) != "auto" and method not in METHODS_WITH_WEIGHTS:
        raise UsageError(f"--upsampler {upsampler}: method {method} has no weights; use it with jbu or resfu")


def make_upsampler(
    method: str,
    *,
    backbone: Extract | None = None,
    network_size: tuple[int, int] | None = None,
    config: ImplicitConfig | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    upsampler: Path | str = "auto",
    allow_other_backbone: bool = False,
    offline: bool = False,
    announce: Announce | None = None,
) -> Upsampler:
    """Build an upsampler by name.

    Args:
        method: a key of `featup_cli.config.METHODS`.
        backbone: needed by methods that look at views of the picture (`implicit`). Weights of `jbu` and `resfu` are
            checked against a loaded `Backbone`.
        network_size: (height, width) at which `backbone` sees the picture; needed with it.
        config: settings of `implicit`; None for its defaults.
        seed: makes methods that draw at random repeatable.
        progress: called as the work goes on.
        upsampler: weights of `jbu` or `resfu`: `auto` for the package's own, a released name (`releases.RELEASES`), or
            a file of `save_upsampler`.
        allow_other_backbone: accept weights for another backbone with as many channels.
        offline: never use the network.
        announce: told of downloads; None for silence.
    Raises:
        UsageError: unknown method, or something that the method needs is missing.
        WeightsError: weights can't be had or are for another backbone; they are never random.
    """
    check_method(method, upsampler)
    if method in ("nearest", "bilinear", "bicubic"):
        from featup_cli.upsamplers.interpolation import Interpolation

        return Interpolation(method)
    if method == "guided":
        from featup_cli.upsamplers.guided_filter import GuidedFilter

        return GuidedFilter()
    if method in METHODS_WITH_WEIGHTS:
        from featup_cli.backbones.base import Backbone
        from featup_cli.upsamplers.pretrained import load_pretrained

        known = backbone if isinstance(backbone, Backbone) else None
        return load_pretrained(
            method, upsampler, known, allow_other_backbone=allow_other_backbone, offline=offline, announce=announce
        )
    if backbone is None or network_size is None:
        raise UsageError("method implicit needs the backbone and its input size: it looks at jittered views")
    from featup_cli.upsamplers.implicit.upsampler import ImplicitUpsampler

    return ImplicitUpsampler(backbone, network_size, config or ImplicitConfig(), seed, progress)
