"""The `Backbone` class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featup_cli.backbones.precision import Network, Precision
from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.core.shapes import Size, describe_size, resolve_network_size
from featup_cli.pictures.read import Picture, as_picture

_DESCRIBED = (
    *("name", "resolved", "layer", "norm_applied", "channels", "stride", "patch_multiple", "native_size"),
    *("fixed_size", "mean", "std", "weights_source", "weights_sha256"),
)


class Extracted(NamedTuple):
    """What a backbone gives for pictures.

    Attributes:
        lr_feats: float32 [B, C, h, w], the features.
        class_token: float32 [B, C], one vector for each whole picture; None for networks without class token.
    """

    lr_feats: Tensor
    class_token: Tensor | None = None

    def of(self, index: int) -> Extracted:
        """That of one picture, as a batch of one that shares no memory with the others."""
        token = self.class_token
        return Extracted(
            self.lr_feats[index : index + 1].clone(), None if token is None else token[index : index + 1].clone()
        )


@dataclass(frozen=True)
class TokenNetwork:
    """A network with a class token. Called as any other network, it gives the features alone.

    Attributes:
        features: normalised pictures -> features [B, C, h, w].
        with_prefix: the same, and the prefix tokens [B, P, C], of which the first is the class token.
    """

    features: Network
    with_prefix: Callable[[Tensor], tuple[Tensor, Tensor]]

    def __call__(self, pixels: Tensor) -> Tensor:
        """The features [B, C, h, w] of normalised pictures."""
        return self.features(pixels)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Class token and features of one pass, as one tensor [B, C, 1 + h w]."""
        features, prefix = self.with_prefix(pixels)
        return torch.cat([prefix[:, 0, :, None], features.flatten(2)], 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Backbone:
    """A frozen network that maps pictures to a grid of features exactly `stride` times smaller.

    Attributes:
        network: normalised float32 [B, 3, H, W] -> [B, channels, H / stride, W / stride]; a `TokenNetwork` if it has a
            class token.
        name: the name as given; `resolved` is the full one, for example a timm name with its weights tag.
        channels: feature channels.
        stride: pixels per feature, along each side.
        patch_multiple: the sides of the network's input must be multiples of this.
        native_size: (height, width) of the input that the network was made for.
        fixed_size: the only (height, width) that the network takes, or None if any multiple will do.
        mean, std: input normalisation per RGB channel, for values in [0, 1].
        norm_applied: whether the final norm (or SAM's neck) acted on the features.
        layer: index of the block or stage that the features come from, counted from 0.
        weights_source: "packaged", "hf-hub:ID", "local-dir:FOLDER", "file:PATH", "url:ADDRESS" or "random".
        weights_sha256: digest of the state dict.
        device: where the network runs and the features are.
        precision: its number format; shared by all backbones made from the same loaded network.
        details: more facts for the record, as JSON values.
        attention_heads: heads of a transformer whose tokens may all attend to each other, else 0.
        restride: builds the network with another patch stride; None if it has no patches to move.
        dilate: builds the network with a smaller output stride, by dilated convolutions, or gives None if it has no
            such form; None if it has none at all.

    Example:
        >>> import featup_cli as featup, numpy
        >>> backbone = featup.load_backbone("tiny")
        >>> backbone(numpy.zeros((120, 160, 3), numpy.uint8)).shape  # seen at 224 x 304 pixels
        torch.Size([1, 96, 14, 19])
    """

    network: Network
    name: str
    resolved: str
    channels: int
    stride: int
    patch_multiple: int
    native_size: Size = (224, 224)
    fixed_size: Size | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    norm_applied: bool = False
    layer: int = 0
    weights_source: str
    weights_sha256: str
    device: torch.device
    precision: Precision
    details: Mapping[str, Any] = field(default_factory=dict)
    attention_heads: int = 0
    restride: Callable[[int], Network] | None = None
    dilate: Callable[[int], Network | None] | None = None

    def __call__(self, images: Any) -> Tensor:
        """Features of one picture, or of a batch; no gradient flows back to the pictures.

        Args:
            images: one picture in any form that `as_picture` takes, such as a path; it is resized as `upsample` does
                by itself. Or a batch that is ready for the network, not resized: a tensor [B, 3, H, W] of floats in
                [0, 1] on any device, with H and W multiples of `patch_multiple`.
        Returns:
            Float32 [B, channels, H / stride, W / stride] on `device`; an ordinary tensor that autograd can use.
        Raises:
            InputError: a picture that can't be read.
            ShapeError: a batch of another shape or dtype, or a size that the network can't take.
            PrecisionError, UsageError: the requested precision fails; see `Precision.run`.
        """
        if not (isinstance(images, Tensor) and images.ndim == 4):
            picture = as_picture(images)
            images = picture.resized(self.input_size(picture))[None]
        self._check(images)
        return self._checked(self.run(self.network, images), images)

    def extract(self, images: Tensor) -> Extracted:
        """The same features, with the class token of networks that have one; arguments and errors as the call."""
        if not isinstance(self.network, TokenNetwork):
            return Extracted(self(images))
        self._check(images)
        tokens = self.run(self.network.tokens, images)
        grid = images.shape[2] // self.stride, images.shape[3] // self.stride
        features = tokens[..., 1:].unflatten(2, grid)
        return Extracted(self._checked(features, images), tokens[..., 0].float().contiguous())

    def _checked(self, features: Tensor, images: Tensor) -> Tensor:
        """Features of pictures as float32, if they have the shape that the backbone declares."""
        height, width = images.shape[-2:]
        expected = (len(images), self.channels, height // self.stride, width // self.stride)
        if features.shape != expected:
            raise ShapeError(f"{self.name} gave features {tuple(features.shape)} instead of {expected}")
        return features.float().contiguous()

    def input_size(self, picture: Picture, resize: str | int | Size | None = None) -> Size:
        """(height, width) at which the network sees a picture; arguments and errors as `resolve_network_size`."""
        name = picture.source or "image"
        return resolve_network_size(picture.size, resize, self.native_size, self.patch_multiple, self.fixed_size, name)

    def run(self, network: Network, images: Tensor) -> Tensor:
        """Normalise pictures in [0, 1] and run a network on them at this backbone's precision."""
        pixels = images.to(self.device, torch.float32)
        # Filled on the device: a copy from the host would wait for it.
        mean, std = (torch.cat([pixels.new_full((1, 1, 1, 1), v) for v in value], 1) for value in (self.mean, self.std))
        return self.precision.run(network, (pixels - mean) / std, judge=self.network)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or images.numel() == 0:
            raise ShapeError(
                f"a backbone takes float images [B, 3, H, W] in [0, 1], not {images.dtype} {tuple(images.shape)}"
            )
        size = (images.shape[2], images.shape[3])
        if self.fixed_size is not None and size != self.fixed_size:
            raise ShapeError(
                f"{self.name} takes {describe_size(self.fixed_size, 'pixels')} only, not {size[0]}x{size[1]}"
            )
        if any(side % self.patch_multiple for side in size):
            raise ShapeError(
                f"{self.name} takes sides that are multiples of {self.patch_multiple}, not {describe_size(size)}"
            )

    def with_stride(self, stride: int) -> Backbone:
        """The same network and weights with overlapping patches, one every `stride` pixels, centred on its cell.

        Raises:
            UsageError: the network has no patches to move, or the stride is not smaller.
        """
        if stride == self.stride:
            return self
        if self.restride is None:
            raise UsageError(
                f"{self.name} can't take a smaller patch stride: it is not a vision transformer with one patch "
                "convolution, free input size and positions relative to the picture"
            )
        if not (isinstance(stride, int) and 0 < stride < self.stride):
            raise UsageError(f"patch stride {stride}: must be smaller than {self.name}'s own {self.stride} pixels")
        height, width = (max(1, round(side / stride)) * stride for side in self.native_size)
        return replace(
            self, network=self.restride(stride), stride=stride, patch_multiple=stride, native_size=(height, width)
        )

    def with_output_stride(self, stride: int) -> Backbone:
        """The same network and weights with dilated convolutions instead of its last strides.

        Raises:
            UsageError: the network has no such form.
        """
        if stride == self.stride:
            return self
        network = self.dilate(stride) if self.dilate else None
        if network is None:
            raise UsageError(f"{self.name} can't have an output stride of {stride} by dilated convolutions")
        return replace(self, network=network, stride=stride)

    def identity(self) -> dict[str, Any]:
        """All settings that determine the features, as JSON values; the first picture doesn't change them."""
        facts = {name: value for name, value in self.describe().items() if name != "precision_choice"}
        return facts | {"precision": self.precision.request}

    def describe(self) -> dict[str, Any]:
        """All facts that determine the features, as JSON values, with the precision chosen on the first picture."""
        facts = {name: getattr(self, name) for name in _DESCRIBED}
        values = {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}
        return {**values, **self.precision.describe(), "device": str(self.device), **self.details}
