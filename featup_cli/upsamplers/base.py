"""The call that all upsamplers share, and their registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from itertools import islice
from pathlib import Path
from typing import Any, ParamSpec, Protocol

import torch
from torch import Tensor

from featup_cli.config import INTERPOLATIONS, METHODS, METHODS_WITH_BACKBONE, METHODS_WITH_WEIGHTS, ImplicitConfig
from featup_cli.errors import MemoryBudgetError, ShapeError, UsageError
from featup_cli.memory import over_budget
from featup_cli.sampling import in_unit_range

Extract = Callable[[Tensor], Tensor]
"""A backbone: images [B, 3, H, W] in [0, 1] to features [B, C, h, w]."""

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, steps done, steps in all, running score as text)."""

Announce = Callable[[str], None]
"""Called with a sentence for the user."""

P = ParamSpec("P")

FLOAT = 4  # bytes of a float32
MARGIN = 0.9  # of the free memory is planned with: allocators keep some of what was given back
GUIDANCE_MAPS = 256  # maps of the output's size that an upsampler without bands may hold at once, besides features


def no_progress(stage: str, done: int, total: int, score: str) -> None:
    """Report nothing."""


@dataclass
class Details:
    """What a call left besides the features, for the record and the feature file.

    `scores` are numbers worth recording; `maps` extra tensors (`uncertainty` [h, w], `saliency` [h', w'], `kernels`
    [M, k, k]); `notes` sentences that the user should read; `facts` how it was computed, as JSON values.
    """

    scores: dict[str, float] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


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

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int], rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """The result of the call in bands of rows, top to bottom, equal to it up to rounding (1e-4).

        Args:
            image, lr_feats, output_size: as the call; the image may be uint8 in 0 to 255 too, which takes less memory.
            rows: of a band at most.
            start: first row of the first band; above 0 a run is continued that was broken off there.
        Yields:
            [B, C, at most `rows`, W]; together the rows from `start` on.
        """
        ...

    def band_bytes(self, lr_shape: Sequence[int], output_size: tuple[int, int], rows: int) -> int:
        """Estimated peak of the memory that `bands` takes besides its arguments, a yielded band included.

        Args:
            lr_shape: [B, C, h, w] of the features, float32.
            output_size: (height, width) of the result.
            rows: of a band.
        Returns:
            Bytes; they never fall with `rows`.
        """
        ...


def without_gradients(make: Callable[P, Iterator[Tensor]]) -> Callable[P, Iterator[Tensor]]:
    """`torch.no_grad` for a generator of bands; unlike that it lets go of a band before the next one is made."""

    @wraps(make)
    def bands(*args: P.args, **kwargs: P.kwargs) -> Iterator[Tensor]:
        made = make(*args, **kwargs)
        ready: list[Tensor] = []
        while True:
            with torch.no_grad():
                ready.extend(islice(made, 1))
            if not ready:
                return
            yield ready.pop()

    return bands


class WholeBands:
    """`bands` and `band_bytes` for an upsampler that can only make its whole result at once."""

    def bands(
        self: Upsampler, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int], rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """The result of the call, made whole, in bands of `rows` rows; see `Upsampler.bands`."""
        yield from self(in_unit_range(image), lr_feats, output_size)[:, :, start:].split(rows, dim=2)

    def band_bytes(self, lr_shape: Sequence[int], output_size: tuple[int, int], rows: int) -> int:
        """Estimated peak of making the whole: `rows` don't matter."""
        # The result, as much again while it is made, and maps of guidance at full size.
        return FLOAT * lr_shape[0] * output_size[0] * output_size[1] * (2 * lr_shape[1] + GUIDANCE_MAPS)


def choose_rows(
    upsampler: Upsampler,
    lr_shape: Sequence[int],
    output_size: tuple[int, int],
    memory: int,
    *,
    held: int = 0,
    method: str = "",
) -> int:
    """The most rows of a band that fit.

    Args:
        upsampler: whose `bands` will run.
        lr_shape: [B, C, h, w] of the features.
        output_size: (height, width) of the result.
        memory: bytes that may be used, of which `held` are taken already; a part of the rest is kept in reserve.
        method: its name, for the message.
    Raises:
        MemoryBudgetError: not even one row fits; the message holds the estimate.
    """
    fits = partial(_fits, upsampler, lr_shape, output_size, MARGIN * (memory - held))
    if not fits(1):
        needed = held + int(upsampler.band_bytes(lr_shape, output_size, 1) / MARGIN)
        raise memory_budget_error(needed, output_size, memory, method)
    low, high = 1, output_size[0]  # the most rows that fit lie between
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _fits(upsampler: Upsampler, lr_shape: Sequence[int], output_size: tuple[int, int], free: float, rows: int) -> bool:
    return upsampler.band_bytes(lr_shape, output_size, rows) <= free


def memory_budget_error(needed: int, output_size: tuple[int, int], memory: int, method: str) -> MemoryBudgetError:
    """The error of an output of `output_size` that takes about `needed` bytes when `memory` may be used."""
    by_method = f" with --method {method}" if method else ""
    what = f"{output_size[0]}x{output_size[1]} features{by_method} need"
    return over_budget(what, needed, memory, "a smaller --output-size, or another method")


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
        raise UsageError(
            f"--upsampler {upsampler}: method {method} has no weights; those that have: "
            f"{', '.join(METHODS_WITH_WEIGHTS)}"
        )


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
        backbone: needed by `METHODS_WITH_BACKBONE`, of which `strided` and `large-image` take a loaded `Backbone` only.
            Weights are checked against a loaded `Backbone`.
        network_size: (height, width) at which `backbone` sees the picture; needed with it.
        config: settings of `implicit`; None for its defaults.
        seed: makes methods that draw at random repeatable.
        progress: called as the work goes on.
        upsampler: weights of a trained method: `auto` for the package's own, a released name (`releases.RELEASES`), or
            a file of `save_upsampler`.
        allow_other_backbone: accept weights for another backbone with as many channels.
        offline: never use the network.
        announce: told of downloads; None for silence.
    Raises:
        UsageError: unknown method, or something that the method needs is missing.
        WeightsError: weights can't be had or are for another backbone; they are never random.
    """
    check_method(method, upsampler)
    if method in INTERPOLATIONS:
        from featup_cli.upsamplers.interpolation import Interpolation

        return Interpolation(method)
    if method == "guided":
        from featup_cli.upsamplers.guided_filter import GuidedFilter

        return GuidedFilter()
    if method == "classical-jbu":
        from featup_cli.upsamplers.jbu.classical import make_classical_jbu

        return make_classical_jbu()
    if method in METHODS_WITH_WEIGHTS:
        from featup_cli.backbones.base import Backbone
        from featup_cli.upsamplers.pretrained import load_pretrained

        known = backbone if isinstance(backbone, Backbone) else None
        return load_pretrained(
            method, upsampler, known, allow_other_backbone=allow_other_backbone, offline=offline, announce=announce
        )
    if method == "dip":
        from featup_cli.upsamplers.dip.upsampler import DIPUpsampler

        return DIPUpsampler(seed=seed, progress=progress)
    assert method in METHODS_WITH_BACKBONE
    if backbone is None or network_size is None:
        raise UsageError(f"method {method} needs the backbone and its input size: it runs the backbone itself")
    if method in ("strided", "large-image"):
        from featup_cli.upsamplers.by_backbone import LargeImageUpsampler, StridedUpsampler

        made = StridedUpsampler if method == "strided" else LargeImageUpsampler
        return made(backbone, network_size)
    from featup_cli.upsamplers.implicit.upsampler import ImplicitUpsampler

    return ImplicitUpsampler(backbone, network_size, config or ImplicitConfig(), seed, progress)
