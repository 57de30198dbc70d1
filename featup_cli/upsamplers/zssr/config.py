"""Settings of zero-shot super-resolution; free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from featup_cli.core.errors import UsageError
from featup_cli.core.settings import check_not_negative, check_positive, check_within


@dataclass(frozen=True)
class ZSSRConfig:
    """Settings of `ZSSRUpsampler`; those of the network are the paper's.

    Attributes:
        components: principal components of the features that are enlarged; the rest of the variance is left out.
        width: channels of the network.
        depth: its convolutions.
        learning_rate: of Adam.
        steps: optimisation steps for each doubling.
        check_interval: steps between looks at the error of the whole map; the best network is kept.
        crop: largest side of an example.
        min_scale: least size of an example's source, as a share of its own.
        back_projections: corrections that bring the halved result back to what was doubled.
        max_pixels: the network's own output has at most about so many; a larger result is interpolated from it.
    """

    components: int = 64
    width: int = 64
    depth: int = 8
    learning_rate: float = 1e-3
    steps: int = 300
    check_interval: int = 25
    crop: int = 32
    min_scale: float = 0.5
    back_projections: int = 10
    max_pixels: int = 16_384

    def __post_init__(self) -> None:
        check_positive(self, *(name for name in self.__dataclass_fields__ if name != "back_projections"))
        check_not_negative(self, "back_projections")
        check_within(self, min_scale=(0, 1))
        if self.depth < 2:
            raise UsageError(f"depth={self.depth}: must be at least 2")
