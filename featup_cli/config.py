"""Settings, in one place and without torch, so that `--help` can show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from featup_cli.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")

METHODS: dict[str, str] = {
    "nearest": "copies each token to its cell",
    "bilinear": "interpolates between tokens",
    "bicubic": "interpolates with a cubic kernel",
    "guided": "guided filter: features as local linear functions of colour",
    "classical-jbu": "joint bilateral upsampling by fixed Gaussians (Kopf et al., 2007); nothing is learned",
    "jbu": "one pass of a joint bilateral stack; serves every backbone",
    "resfu": "one pass that mixes neighbours by learned similarity; packaged weights serve every backbone",
    "implicit": "fits implicit FeatUp to the picture from jittered views",
    "strided": "runs a ViT with overlapping patches (Amir et al., 2021; FeatUp, section 6.2); seconds a picture",
    "large-image": "runs the backbone on an enlarged picture (FeatUp, section 4); up to 64 times its cost",
    "dip": "fits a deep image prior to the features (Ulyanov et al., 2018); half a minute a picture on a CPU",
    "carafe": "doublings by kernels that the features predict (Wang et al., 2019); to be trained",
    "sapa": "doublings by likeness of picture and features (Lu et al., 2022); to be trained",
    "fade": "doublings by kernels that picture and features predict (Lu et al., 2022); to be trained",
    "dysample": "doublings by sampling at predicted points (Liu et al., 2023); to be trained",
    "pixelshuffle": "doublings by sub-pixel convolution (Shi et al., 2016); to be trained",
    "deconv": "doublings by transposed convolution (Noh et al., 2015); to be trained",
    "resize-conv": "doublings by interpolation and convolution (Odena et al., 2016); to be trained",
}
METHODS_WITH_WEIGHTS = (
    "jbu", "resfu", "carafe", "sapa", "fade", "dysample", "pixelshuffle", "deconv", "resize-conv",
)  # fmt: skip
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
"""Number formats that a backbone can be asked to compute in."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
"""Methods that do not look at the picture."""
METHODS_WITH_BACKBONE = ("implicit", "strided", "large-image")
"""Methods that run the backbone themselves, so that they need it and its input size."""
METHODS_OF_A_PICTURE = (*METHODS_WITH_BACKBONE, "dip")
"""Methods whose upsampler is made anew for each picture: they depend on its input size, or fit it and say how far."""


@dataclass(frozen=True)
class ImplicitConfig:
    """Settings of implicit FeatUp (paper: sections 3, 3.1 to 3.3 and table 7).

    Attributes:
        views: jittered views to fit.
        heldout_views: further views kept aside, for the score and for stopping.
        max_pad: reflect padding in pixels at a short side of 224; scales with the network's input.
        max_zoom: largest magnification of a view.
        zoom_share: share of the views that are magnified at all.
        flips: mirror half of the views.
        components: principal components that are fitted; the rest of the variance is left out.
        downsampler: `attention` (equation 2) or `simple` (one blur kernel).
        kernel_size: side of the pooling window in pixels at stride 16; scales with the stride.
        kernel_width: initial standard deviation of the kernel, in half windows.
        uncertainty: weigh tokens by a learned uncertainty (equation 1); False is plain squared error.
        tv_weight: total-variation prior on feature magnitudes (equation 8), on features of unit variance.
        magnitude_weight: prior on squared magnitudes (section 6.4).
        representation: `network`, or an explicit `buffer` of one vector a pixel (figure 9).
        anchored: add the network to a small grid of coefficients and colour slopes, initialised in closed form from
            the views; False is the paper's network alone.
        sharpening: unsharp-mask strength of that initialisation; above 0 favours thin things over accuracy.
        color_features: show the network the picture's colours.
        frequencies: Fourier frequencies of position; the highest lies at `position_limit`.
        position_limit: highest frequency of position as a share of the pixel grid's Nyquist limit, below 1.
        color_frequencies: Fourier frequencies of colour.
        color_limit: highest frequency of colour, radians per unit of intensity.
        hidden: width of the hidden layers.
        layers: linear layers of the network.
        dropout: probability in its hidden layers.
        optimizer: `adamw` or `nadam`.
        learning_rate: peak; a cosine brings it to zero.
        average: decay of the exponential average of the weights; 0 for none.
        max_steps: optimisation steps at most.
        tokens: tokens drawn for each step.
        positions: positions drawn in each token's window; a square number.
        patience: stop after this many checks without improvement on the held-out views.
        precision: of matrix products on a CUDA GPU: `float32`, or `tf32`, which is quicker and rounds to 10 bits.
        cuda_graph: on a CUDA GPU, capture a step once and replay it.
    """

    views: int = 50
    heldout_views: int = 6
    max_pad: float = 30.0
    max_zoom: float = 1.8
    zoom_share: float = 0.25
    flips: bool = True
    components: int = 128
    downsampler: Literal["attention", "simple"] = "attention"
    kernel_size: float = 29.0
    kernel_width: float = 0.5
    uncertainty: bool = True
    tv_weight: float = 0.0
    magnitude_weight: float = 0.0
    representation: Literal["network", "buffer"] = "network"
    anchored: bool = True
    sharpening: float = 0.0
    color_features: bool = True
    frequencies: int = 8
    position_limit: float = 0.15
    color_frequencies: int = 4
    color_limit: float = 20.0
    hidden: int = 192
    layers: int = 3
    dropout: float = 0.0
    optimizer: Literal["adamw", "nadam"] = "adamw"
    learning_rate: float = 5e-3
    average: float = 0.98
    max_steps: int = 150
    tokens: int = 512
    positions: int = 9
    patience: int = 3
    precision: Literal["float32", "tf32"] = "float32"
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        positive = ("views", "heldout_views", "components", "kernel_size", "kernel_width", "hidden", "max_steps",
                    "tokens", "positions", "learning_rate", "patience")  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                raise UsageError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("max_pad", "tv_weight", "magnitude_weight", "frequencies", "color_frequencies", "sharpening"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}={getattr(self, name)}: must not be negative")
        for name, low, high in (("zoom_share", 0, 1), ("dropout", 0, 0.99), ("average", 0, 0.9999)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name}={getattr(self, name)}: must lie between {low} and {high}")
        if not 0 < self.position_limit < 1:
            raise UsageError(f"position_limit={self.position_limit}: must lie above 0 and below 1, the Nyquist limit")
        if self.max_zoom < 1:
            raise UsageError(f"max_zoom={self.max_zoom}: must be at least 1")
        if round(self.positions**0.5) ** 2 != self.positions:
            raise UsageError(f"positions={self.positions}: must be a square number, for stratified draws")
        if self.layers < 2:
            raise UsageError(f"layers={self.layers}: must be at least 2")


PRESETS: dict[str, ImplicitConfig] = {
    "default": ImplicitConfig(),
    # Table 7 as printed; what it leaves open (tokens and positions a step) is ours.
    "paper": ImplicitConfig(
        views=10, zoom_share=0.5, tv_weight=0.05, anchored=False, frequencies=30, position_limit=0.9,
        color_frequencies=30, color_limit=100.0, hidden=128, dropout=0.1, optimizer="nadam", learning_rate=1e-3,
        average=0.0, max_steps=2000, positions=16, patience=1000,
    ),
}  # fmt: skip


def _parse(name: str, kind: Any, text: str) -> Any:
    if get_origin(kind) is UnionType:  # the only unions of a setting are with None
        if text == "none":
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    choices = get_args(kind) if get_origin(kind) is Literal else ("true", "false") if kind is bool else ()
    if choices and text not in choices:
        raise UsageError(f"{name}={text}: choose from {', '.join(choices)}")
    if kind is bool:
        return text == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise UsageError(f"{name}={text}: expected {'a whole number' if kind is int else 'a number'}") from None
    return text


def change_settings(config: Settings, texts: Iterable[str], prefix: str = "") -> Settings:
    """A frozen dataclass of settings with changes given as `key=value`; `none` where a setting may be None.

    Args:
        config: the settings.
        texts: the changes.
        prefix: what the user wrote before each key, for messages.
    Raises:
        UsageError: an unknown setting, or a value that can't be.
    """
    kinds = get_type_hints(type(config))
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in kinds:
            keys = ", ".join(prefix + key for key in kinds)
            raise UsageError(f"--set {prefix}{text}: expected KEY=VALUE with KEY one of {keys}")
        changes[name] = _parse(prefix + name, kinds[name], value.strip())
    return replace(config, **changes)


def implicit_config(preset: str, given: Mapping[str, Any], texts: Iterable[str]) -> ImplicitConfig:
    """A preset with changes.

    Args:
        preset: a key of `PRESETS`.
        given: settings by name; those that are None keep the preset's value.
        texts: `key=value` for any setting.
    Raises:
        UsageError: an unknown setting, or a value that can't be.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    return change_settings(replace(PRESETS[preset], **changes), texts)
