"""What a backbone is, and how one is loaded by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featup_cli.backbones import weights as weight_files
from featup_cli.backbones.aliases import resolve_alias
from featup_cli.backbones.precision import Network, Precision
from featup_cli.backbones.tiny import TINY_CHANNELS, TINY_STRIDE, TinyNet, load_tiny
from featup_cli.errors import ShapeError, UsageError, WeightsError

_PROBE_SIDE = 64  # pixels; small, but more than one position even at stride 32


@dataclass(frozen=True)
class BackboneConfig:
    """Which backbone to load.

    Attributes:
        name: an alias (see `aliases.ALIASES`), a timm name, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
        layer: Python index of a block (ViT) or stage (hierarchical network); None is the last one.
        norm: apply the network's final norm to the features of `layer`, whichever block that is; False: raw.
        weights: file to load instead of the published weights (safetensors, or a plain torch state dict).
        model_args: arguments for the model's constructor; `mean` and `std` set the input normalisation.
        offline: never use the network, as with HF_HUB_OFFLINE=1.
        random_weights: an untrained network, the same in every run; for tests.
        precision: number format to compute in, a value of `PRECISIONS`. `auto` is float32 on a CPU; elsewhere the first
            of float16 and bfloat16 whose features of the first picture stay within 1 % of float32, else float32.
    """

    name: str = "tiny"
    layer: int | None = None
    norm: bool = True
    weights: Path | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = False
    random_weights: bool = False
    precision: str = "auto"


class Grid(NamedTuple):
    """What a probe of a network shows: feature channels, pixels per feature, and the input sizes it takes."""

    channels: int
    stride: int
    patch_multiple: int
    fixed_size: tuple[int, int] | None

    @property
    def probe_size(self) -> tuple[int, int]:
        """A small (height, width) that the network takes."""
        return self.fixed_size or probe_size(self.patch_multiple)

    def nearest(self, side: int) -> int:
        """The multiple of `patch_multiple` nearest to `side`."""
        return max(1, round(side / self.patch_multiple)) * self.patch_multiple


@dataclass(frozen=True, eq=False, kw_only=True)
class Backbone:
    """A frozen network that maps pictures to a grid of features exactly `stride` times smaller.

    Attributes:
        network: normalised float32 [B, 3, H, W] -> [B, channels, H / stride, W / stride].
        name: the name as asked; `resolved` is the timm name with its weights tag, or "tiny".
        channels: feature channels.
        stride: pixels per feature, along each side.
        patch_multiple: the sides of the network's input must be multiples of this.
        native_size: (height, width) of the input that the network was made for.
        fixed_size: the only (height, width) that the network takes, or None if any multiple will do.
        mean, std: input normalisation per RGB channel, for values in [0, 1].
        norm_applied: whether the final norm (or SAM's neck) really acted on the features.
        layer: index of the block or stage that the features come from, counted from 0.
        weights_source: "packaged", "hf-hub:ID", "local-dir:FOLDER", "file:PATH", "url:ADDRESS" or "random".
        weights_sha256: digest of the state dict.
        device: where the network runs and the features are.
        precision: the number format that it computes in; shared by all that are made of the same loaded network.
        details: more facts for the record, as JSON values.
        attention_heads: heads of a transformer whose tokens may all attend to each other, else 0.
        restride: makes the network with patches that begin every so many pixels; None if it has no such patches.
    """

    network: Network
    name: str
    resolved: str
    channels: int
    stride: int
    patch_multiple: int
    native_size: tuple[int, int]
    fixed_size: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    norm_applied: bool
    layer: int
    weights_source: str
    weights_sha256: str
    device: torch.device
    precision: Precision
    details: Mapping[str, Any] = field(default_factory=dict)
    attention_heads: int = 0
    restride: Callable[[int], Network] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Features of a batch of pictures; no gradient flows back to the pictures.

        Args:
            images: [B, 3, H, W] floats in [0, 1] on any device; H and W multiples of `patch_multiple`.
        Returns:
            Float32 [B, channels, H / stride, W / stride] on `device`; an ordinary tensor that autograd can use.
        Raises:
            ShapeError: not such a batch, or a size that the network can't take.
            PrecisionError, UsageError: the asked precision does not serve, as `Precision.run`.
        """
        self._check(images)
        features = self.run(self.network, images)
        height, width = images.shape[-2:]
        expected = (len(images), self.channels, height // self.stride, width // self.stride)
        if features.shape != expected:
            raise ShapeError(f"{self.name} gave features {tuple(features.shape)} instead of {expected}")
        return features.float().contiguous()

    def run(self, network: Network, images: Tensor) -> Tensor:
        """What a network says about pictures in [0, 1], normalised and at the precision of this backbone's own."""
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
            raise ShapeError(f"{self.name} takes {self.fixed_size} pixels (height, width) only, not {size}")
        if any(side % self.patch_multiple for side in size):
            raise ShapeError(f"{self.name} takes sides that are multiples of {self.patch_multiple}, not {size}")

    def with_stride(self, stride: int) -> Backbone:
        """The same network and weights with overlapping patches, one every `stride` pixels, centred on its cell.

        Raises:
            UsageError: a network that has no patches to move, or a stride that is no smaller one.
        """
        if stride == self.stride:
            return self
        if self.restride is None:
            raise UsageError(
                f"{self.name} can't take a smaller patch stride: it is no vision transformer of one patch convolution, "
                "free input size and positions relative to the picture"
            )
        if not 0 < stride < self.stride:
            raise UsageError(f"patch stride {stride}: {self.name} has {self.stride} pixels; give a smaller one")
        height, width = (max(1, round(side / stride)) * stride for side in self.native_size)
        return replace(
            self, network=self.restride(stride), stride=stride, patch_multiple=stride, native_size=(height, width)
        )

    def identity(self) -> dict[str, Any]:
        """All that was asked for and fixes the features, as JSON values: the same before and after any picture."""
        facts = {name: value for name, value in self.describe().items() if name != "precision_choice"}
        return facts | {"precision": self.precision.request}

    def describe(self) -> dict[str, Any]:
        """All that fixes the features, as JSON values, with the precision that was chosen by the first picture."""
        return {
            "name": self.name,
            "resolved": self.resolved,
            "layer": self.layer,
            "norm_applied": self.norm_applied,
            "channels": self.channels,
            "stride": self.stride,
            "patch_multiple": self.patch_multiple,
            "native_size": list(self.native_size),
            "fixed_size": list(self.fixed_size) if self.fixed_size else None,
            "mean": list(self.mean),
            "std": list(self.std),
            "weights_source": self.weights_source,
            "weights_sha256": self.weights_sha256,
            **self.precision.describe(),
            "device": str(self.device),
            **self.details,
        }


def load_backbone(config: BackboneConfig, device: torch.device | str = "cpu") -> Backbone:
    """Load the backbone that `config` names, ready to run on `device`.

    Raises:
        UsageError: an unknown name, a layer out of range, an argument that the model does not take.
        WeightsError: weights can't be had or don't fit; never replaced by random ones.
    """
    if config.weights is not None and config.random_weights:
        raise UsageError("--weights and --random-weights exclude each other")
    device = torch.device(device)
    if resolve_alias(config.name) == "tiny":
        return _load_tiny(config, device)
    # timm takes seconds to import, and `tiny` does not need it.
    from featup_cli.backbones.timm_backbone import load_timm

    return load_timm(config, device)


def _load_tiny(config: BackboneConfig, device: torch.device) -> Backbone:
    if config.model_args:
        raise UsageError(f"tiny takes no --backbone-arg, but got: {', '.join(config.model_args)}")
    if config.layer not in (None, 0, -1):
        raise UsageError(f"layer {config.layer} is out of range: tiny has one, 0 (or -1)")
    if config.random_weights:
        source = "random"
        with weight_files.seeded():
            network = TinyNet()
    elif config.weights is not None:
        source = f"file:{config.weights}"
        network = TinyNet()
        weight_files.load_weights(network, weight_files.read_weights(config.weights))
    else:
        source = "packaged"
        try:
            network = load_tiny()
        except FileNotFoundError:
            raise WeightsError("the weights of tiny are missing from this installation: reinstall featup") from None
    digest = weight_files.digest(network.state_dict())
    return Backbone(
        network=network.eval().requires_grad_(False).to(device),
        name=config.name,
        resolved="tiny",
        channels=TINY_CHANNELS,
        stride=TINY_STRIDE,
        patch_multiple=TINY_STRIDE,
        native_size=(224, 224),
        fixed_size=None,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        norm_applied=False,
        layer=0,
        weights_source=source,
        weights_sha256=digest,
        device=device,
        precision=Precision(config.precision, device),
        details={"torch": torch.__version__},
    )


def probe_size(multiple: int) -> tuple[int, int]:
    """A small (height, width) of two different multiples of `multiple`."""
    steps = math.ceil(_PROBE_SIDE / multiple)
    return steps * multiple, (steps + 1) * multiple


def run_probe(network: Network, size: tuple[int, int], device: torch.device) -> Tensor:
    """Features of one normalised image of noise, always the same, of `size` (height, width)."""
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(noise.to(device))


def measure_grid(name: str, network: Network, reduction: int, native: tuple[int, int], device: torch.device) -> Grid:
    """Find out by trial which sizes a network takes and what grid it gives, rather than trust a declaration.

    Args:
        name: the backbone, for the message.
        network: normalised float32 [1, 3, H, W] -> features.
        reduction: pixels per feature as declared; multiples of this are tried first.
        native: (height, width) that the network was made for, tried last.
    Raises:
        UsageError: no size gives a [1, C, h, w] grid with a whole stride.
    """
    multiples = dict.fromkeys((reduction, math.lcm(reduction, 32)))
    attempts = [(multiple, probe_size(multiple)) for multiple in multiples]
    failure = ""
    for multiple, size in [*attempts, (None, native)]:
        try:
            features = run_probe(network, size, device)
        except Exception as error:  # a model that can't take a size says so in any way it likes
            failure = weight_files.first_line(error)
            continue
        if features.ndim != 4:
            failure = f"its features have the shape {tuple(features.shape)}"
            continue
        height, width = features.shape[-2:]
        stride = size[0] // height
        if size == (height * stride, width * stride):
            return Grid(features.shape[1], stride, multiple or stride, None if multiple else size)
        failure = f"{size} pixels give a grid of {(height, width)}, which is no whole stride"
    raise UsageError(f"{name} can't be used as a backbone: {failure}")
