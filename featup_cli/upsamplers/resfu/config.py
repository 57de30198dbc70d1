"""Settings of ReSFU; free of torch, so that `--help` can show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featup_cli.core.errors import UsageError
from featup_cli.core.settings import check_not_negative, check_positive


@dataclass(frozen=True)
class ReSFUConfig:
    """Settings of `ReSFU` (its paper, section 4 and tables 5 to 8).

    Attributes:
        kernel_size: K, neighbours along a side of the window; odd.
        projection: D, width of query and key.
        groups: G, groups of the convolutions that compare query and key.
        hidden: L, width of the compared maps; a multiple of `groups`. The paper's text says 32, but only 128, as in the
            authors' code, gives its numbers of parameters.
        compressed: width inside the channel compressor (figure 5), a multiple of 8 and of `groups`; 0: that of
            `hidden`.
        relu_first: the channel compressor begins with a ReLU, as in the authors' code, and not with a convolution, as
            printed.
        similarity: `pcdc` (paired central difference convolution), `concat` (a convolution of query and key
            concatenated) or `inner_product` (table 6).
        scores: `semantic` and `detail` similarities, or their sum `both` (table 5).
        guided_query: align the query of the semantic score by a guided filter (table 5, q_GF).
        smoothed_key: smooth the key of the detail score (table 5, q_GS).
        neighbors: `fine`, one low-resolution pixel apart around every output pixel, or `coarse`, those of the
            low-resolution pixel that an output pixel lies in (table 7).
        guidance: `image`, through a convolutional stem, or `features`, any map of `guidance_channels`.
        key: where keys come from: a `projection` of the features (the paper), which fits one number of channels, or the
            `components`: the part of the picture's own query that the features' leading principal components explain,
            which serves every backbone.
        key_components: how many those are.
        guidance_channels: of the map that makes the query; with `image`, the stem's output.
        filter_radius: of the guided filter's window, in pixels of the grid that it works on.
        filter_scale: output pixels from a pixel of that grid to the next. The authors' code halves the paper's radius
            of 8 along with the resolution; `filter_radius=8 filter_scale=1` is the paper as printed.
        filter_eps: regularisation of the guided filter.
        sharpen_lr: add this times their fine detail to the mixed features before mixing; the initial value of a
            learned scalar, 0 for none (the paper's module).
        sharpen_lr_wide: likewise for detail of the next coarser scale.
    """

    kernel_size: int = 3
    projection: int = 32
    groups: int = 4
    hidden: int = 128
    compressed: int = 0
    relu_first: bool = True
    similarity: Literal["pcdc", "concat", "inner_product"] = "pcdc"
    scores: Literal["both", "semantic", "detail"] = "both"
    guided_query: bool = True
    smoothed_key: bool = True
    neighbors: Literal["fine", "coarse"] = "fine"
    guidance: Literal["image", "features"] = "image"
    key: Literal["projection", "components"] = "projection"
    key_components: int = 24
    guidance_channels: int = 32
    filter_radius: int = 4
    filter_scale: int = 2
    filter_eps: float = 0.001
    sharpen_lr: float = 0.0
    sharpen_lr_wide: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "kernel_size", "projection", "groups", "hidden", "key_components", "guidance_channels")
        check_positive(self, "filter_radius", "filter_scale", "filter_eps")
        check_not_negative(self, "compressed")
        if self.kernel_size % 2 == 0:
            raise UsageError(f"kernel_size={self.kernel_size}: must be odd")
        widths = {"projection": self.projection, "hidden": self.hidden, "compressed": self.compressor_width}
        if any(width % self.groups for width in widths.values()) or self.compressor_width % 8:
            raise UsageError(
                f"{', '.join(f'{name}={width}' for name, width in widths.items())}, groups={self.groups}: all widths "
                "must be multiples of groups, and compressed of 8"
            )
        if self.key == "components" and self.guidance == "features":
            raise UsageError("key=components: makes keys of the picture; it needs guidance=image")

    @property
    def compressor_width(self) -> int:
        """The width inside the channel compressor."""
        return self.compressed or self.hidden
