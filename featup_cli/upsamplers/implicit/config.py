"""Settings of implicit FeatUp; free of torch, so that `--help` can show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from featup_cli.core.checks import checked
from featup_cli.core.errors import UsageError
from featup_cli.core.options import option
from featup_cli.core.settings import (
    change_settings,
    check_not_negative,
    check_positive,
    check_square,
    check_within,
    later,
)


@checked
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
        pooling: `sampled` pools `positions` of each of `tokens`, which punishes fine detail (docs/implicit.md);
            `unbiased` draws them twice and doesn't; `dense` renders the field and pools all pixels of all tokens.
        jitters: views drawn for each step of `dense` pooling.
        channel_error: a token's squared error is the `mean` over channels, or the `sum` (as equation 1 is printed).
        schedule: of the learning rate: `cosine` after a short rise, or `constant`.
        keep: the `best` state on the held-out views, or the `last`.
        magnitude_prior: what `magnitude_weight` weighs: `small` features, or pooled magnitudes as `observed`.
        scale_kernel: `kernel_size` scales with the stride; False takes it in pixels of the network's input.
        load_size: short side of the network's input in pixels, unless `--resize` gives it; 0 is the backbone's own.
        full_detail: magnified views show detail that the network's input lacks; False enlarges that input.
    """

    views: int = option(50, "jittered views to fit.")
    heldout_views: int = 6
    max_pad: float = 30.0
    max_zoom: float = 1.8
    zoom_share: float = 0.25
    flips: bool = True
    components: int = 128
    downsampler: Literal["attention", "simple"] = option(
        "attention", "learned pooling, by saliency or one blur kernel."
    )
    kernel_size: float = 29.0
    kernel_width: float = 0.5
    uncertainty: bool = option(True, "weigh tokens by a learned uncertainty.")
    tv_weight: float = option(0.0, "total-variation prior.")
    magnitude_weight: float = 0.0
    representation: Literal["network", "buffer"] = option("network", "network, or an explicit buffer of features.")
    anchored: bool = True
    sharpening: float = 0.0
    color_features: bool = option(True, "show the network the picture's colours.")
    frequencies: int = option(8, "Fourier frequencies.")
    position_limit: float = 0.15
    color_frequencies: int = 4
    color_limit: float = 20.0
    hidden: int = 192
    layers: int = 3
    dropout: float = 0.0
    optimizer: Literal["adamw", "nadam"] = "adamw"
    learning_rate: float = 5e-3
    average: float = 0.98
    max_steps: int = option(150, "optimisation steps at most.")
    tokens: int = 512
    positions: int = 9
    patience: int = 3
    precision: Literal["float32", "tf32"] = "float32"
    cuda_graph: bool = True
    pooling: Literal["sampled", "unbiased", "dense"] = later("sampled")
    jitters: int = later(10)
    channel_error: Literal["mean", "sum"] = later("mean")
    schedule: Literal["cosine", "constant"] = later("cosine")
    keep: Literal["best", "last"] = later("best")
    magnitude_prior: Literal["small", "observed"] = later("small")
    scale_kernel: bool = later(True)
    load_size: int = later(0)
    full_detail: bool = later(True)

    def __post_init__(self) -> None:
        check_positive(self, "views", "heldout_views", "components", "kernel_size", "kernel_width", "hidden")
        check_positive(self, "max_steps", "tokens", "positions", "learning_rate", "patience", "jitters")
        check_not_negative(
            self,
            "max_pad",
            "tv_weight",
            "magnitude_weight",
            "frequencies",
            "color_frequencies",
            "sharpening",
            "load_size",
        )
        check_within(self, zoom_share=(0, 1), dropout=(0, 0.99), average=(0, 0.9999))
        if not 0 < self.position_limit < 1:
            raise UsageError(f"position_limit={self.position_limit}: must lie above 0 and below 1, the Nyquist limit")
        if self.max_zoom < 1:
            raise UsageError(f"max_zoom={self.max_zoom}: must be at least 1")
        check_square(self, "positions")
        if self.layers < 2:
            raise UsageError(f"layers={self.layers}: must be at least 2")


PRESETS: dict[str, ImplicitConfig] = {
    "default": ImplicitConfig(),
    # Table 7 and sections 3 to 3.3 as printed. What they leave open is as in the authors' code: the pool of views, the
    # share of magnified ones, 30 frequencies and the weight of the magnitude prior. Hidden channels are `components`.
    "paper": ImplicitConfig(
        views=3000, jitters=10, load_size=224, full_detail=False, max_pad=30.0, max_zoom=1.8, zoom_share=0.5,
        components=128, downsampler="attention", kernel_size=29.0, scale_kernel=False, pooling="dense",
        channel_error="sum", uncertainty=True, tv_weight=0.05, magnitude_weight=0.001, magnitude_prior="observed",
        representation="network", anchored=False, color_features=True, frequencies=30, position_limit=0.9,
        color_frequencies=30, color_limit=100.0, hidden=128, layers=3, dropout=0.1, optimizer="nadam",
        learning_rate=1e-3, schedule="constant", max_steps=2000, keep="last", average=0.0,
    ),
}  # fmt: skip


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
