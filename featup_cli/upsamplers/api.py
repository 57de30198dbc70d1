"""The call that all upsamplers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError
from featup_cli.core.shapes import Size

Extract = Callable[[Tensor], Tensor]
"""A backbone: images [B, 3, H, W] in [0, 1] to features [B, C, h, w]."""

Rows = Callable[[int, int], Tensor]
"""Rows `top` to `bottom` of a result, top to bottom and none twice: [B, C, bottom - top, W]."""

FLOAT = 4  # bytes of a float32


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
    """What upsamples features, as the rest of the program calls it; `RowUpsampler` says what each member does."""

    details: Details

    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: Size | int) -> Tensor:
        """All rows at once."""

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: Size | int, rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """All rows from `start`, `rows` at a time."""

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """Estimated peak of it."""


class RowUpsampler:
    """An upsampler that makes any rows of its result: the call makes all of them at once, `bands` loops.

    A subclass gives `prepare` and `band_bytes`; gradients flow unless it stops them.

    Attributes:
        details: describes the last call.
        linear_in_features: the result is a weighted mean of the features, with weights that depend on the picture alone
            and sum to one: any affine map of the channels (a probe, a projection) may come before it instead of after
            it, with the same result.
    """

    linear_in_features = False

    def __init__(self) -> None:
        super().__init__()
        self.details = Details()

    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Any:
        """All that rows share (statistics of the whole picture, weights of early stages, a fit): `Rows` that hold it.

        Args:
            image: [B, 3, H', W'] in [0, 1], the picture that the features come from, at any size; without gradients
                uint8 in 0 to 255 too, which takes less memory.
            lr_feats: [B, C, h, w].
            size: (height, width) of the result, any.
        Raises:
            ShapeError: a tensor of another shape.
        """
        raise NotImplementedError

    def rows(self, prepared: Any, top: int, bottom: int) -> Tensor:
        """`Rows` of what was prepared, or of anything else that a subclass prepares."""
        made: Tensor = prepared(top, bottom)
        return made

    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: Size | int) -> Tensor:
        """Upsample features to [B, C, H, W], or to a square; other arguments and errors as `prepare`."""
        return self.whole(image, lr_feats, as_size(output_size))

    def whole(self, image: Tensor, lr_feats: Tensor, size: Size) -> Tensor:
        """What the call gives; for subclasses that have a quicker way than through rows."""
        return self.rows(self.prepare(image, lr_feats, size), 0, size[0])

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: Size | int, rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """The result of the call in bands of rows, top to bottom, equal to it up to rounding (1e-4).

        Args:
            image, lr_feats, output_size: as the call.
            rows: of a band at most.
            start: first row of the first band; above 0 a run is continued that was broken off there.
        Yields:
            [B, C, at most `rows`, W]; together the rows from `start` on. A band is let go of before the next is made.
        """
        size = as_size(output_size)
        prepared = self.prepare(image, lr_feats, size)
        for top in range(start, size[0], rows):
            yield self.rows(prepared, top, min(top + rows, size[0]))

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """Estimated peak of the memory that `bands` takes besides its arguments, a yielded band included.

        Args:
            lr_shape: [B, C, h, w] of the features, float32.
            output_size: (height, width) of the result.
            rows: of a band.
        Returns:
            Bytes; they never fall with `rows`.
        """
        raise NotImplementedError


class UpsamplerModule(nn.Module, RowUpsampler):
    """A network that is a `RowUpsampler`.

    Attributes:
        Config: class of its settings.
        config: its settings.
        channels: of the features; None for any number.
        shares_weights: all channels are mixed with the same weights, so that others may take their place.
        any_picture: the picture may have another float type than the features.
        replayable: without gradients the host never waits for the device, so that a CUDA graph can hold a call whose
            like came before. A failed attempt leaves libraries in a bad state.
    """

    Config: ClassVar[type[Any]]
    config: Any
    channels: int | None
    shares_weights = True
    any_picture = False
    replayable = False

    def __init__(self, channels: int | None = None, config: Any = None) -> None:
        super().__init__()
        self.channels = channels
        self.config = config if config is not None else self.Config()
        self.details = Details()

    def prepare(
        self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None = None, *, whole: bool = True
    ) -> Any:
        """As `RowUpsampler.prepare`.

        Args:
            image, lr_feats, size: as there.
            values: [B, K, h, w], mixed in place of `lr_feats` with the same weights: a linear map of them, say.
            whole: all rows will be asked for at once, so that maps as large as the result may be kept; else in bands,
                without gradients.
        """
        raise NotImplementedError

    def forward(self, image: Tensor, lr_feats: Tensor, output_size: Size | int, values: Tensor | None = None) -> Tensor:
        """As `RowUpsampler`'s call: [B, C, H, W], or [B, K, H, W] with `values`."""
        size = as_size(output_size)
        return self.rows(self.prepare(image, lr_feats, size, values), 0, size[0])

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: Size | int, rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """As `RowUpsampler.bands`, without gradients."""
        # What yields isn't decorated: between bands the caller's own mode holds.
        prepare, make = torch.no_grad()(self.prepare), torch.no_grad()(self.rows)
        size = as_size(output_size)
        prepared = prepare(image, lr_feats, size, whole=start == 0 and rows >= size[0])
        for top in range(start, size[0], rows):
            yield make(prepared, top, min(top + rows, size[0]))

    def check_call(self, image: Tensor, lr_feats: Tensor, size: Size) -> None:
        """Raise ShapeError unless the arguments fit each other and the features have `channels`, if not None."""
        check_inputs(image, lr_feats, size)
        if self.channels is not None and lr_feats.shape[1] != self.channels:
            raise ShapeError(f"lr_feats must be [B, {self.channels}, h, w], not {list(lr_feats.shape)}")

    @classmethod
    def from_arguments(cls, *, channels: int | None = None, **settings: Any) -> UpsamplerModule:
        """A module with random weights, of what `arguments` gives; settings that are left out have their defaults."""
        return cls(channels, cls.Config(**settings))

    def arguments(self) -> dict[str, Any]:
        """What `from_arguments` makes such a module of, as JSON values: the number of channels and the settings."""
        return {"channels": self.channels, **asdict(self.config)}


def is_linear(upsampler: Upsampler) -> bool:
    """Whether an affine map of the channels may come before the upsampler instead of after it."""
    return bool(getattr(upsampler, "linear_in_features", False))


def as_size(output_size: Size | int) -> Size:
    """A size as (height, width): one number is a square, and anything else is left to `check_inputs`."""
    return output_size if isinstance(output_size, Sequence) else (output_size, output_size)


def check_inputs(image: Tensor, lr_feats: Tensor, output_size: Size) -> None:
    """Raise ShapeError unless `image` is [B, 3, H, W], `lr_feats` floats [B, C, h, w] and the size positive."""
    if not isinstance(image, Tensor):
        raise ShapeError(
            f"image must be a tensor [B, 3, H, W], not {type(image).__name__}: "
            "featup.load_image(path).tensor()[None] is one"
        )
    if image.ndim != 4 or image.shape[1] != 3 or image.numel() == 0:
        raise ShapeError(f"image must be [B, 3, H, W], not {list(image.shape)}")
    if not isinstance(lr_feats, Tensor) or not lr_feats.is_floating_point():
        kind = lr_feats.dtype if isinstance(lr_feats, Tensor) else type(lr_feats).__name__
        raise ShapeError(f"lr_feats must be a tensor of floats [B, C, h, w], as backbone(image) gives, not {kind}")
    if lr_feats.ndim != 4 or lr_feats.shape[0] != image.shape[0] or lr_feats.numel() == 0:
        raise ShapeError(f"lr_feats must be [{image.shape[0]}, C, h, w], not {list(lr_feats.shape)}")
    # The compiler of torch 2.6 can't ask a size for an attribute, and has sizes of no other kind.
    whole = torch.compiler.is_compiling() or (
        isinstance(output_size, Sequence) and all(hasattr(side, "__index__") for side in output_size)
    )
    if not whole or len(output_size) != 2 or min(output_size) < 1:
        raise ShapeError(
            f"output_size must be (height, width), each at least 1, or one number for a square, not {output_size}"
        )
