"""Settings of the deep image prior; free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from featup_cli.core.settings import check_not_negative, check_positive


@dataclass(frozen=True)
class DIPConfig:
    """Settings of `DIPUpsampler`.

    Attributes:
        components: principal components of the features that are fitted; the rest of the variance is left out.
        width: channels of the hourglass.
        skip_width: channels that bypass each of its levels.
        levels: halvings of the resolution at most.
        noise_channels: channels of the fixed noise that the network sees.
        noise: of the fixed noise, which is uniform between 0 and this.
        jitter: standard deviation of new noise added in every step; keeps the fit from settling on single pixels.
        learning_rate: peak of Adam's; a cosine brings it to zero.
        steps: optimisation steps; the prior lies in stopping early.
        max_pixels: the network's own output has at most about so many; a larger result is interpolated from it.
    """

    components: int = 64
    width: int = 32
    skip_width: int = 4
    levels: int = 5
    noise_channels: int = 16
    noise: float = 1.0
    jitter: float = 0.03
    learning_rate: float = 0.03
    steps: int = 300
    max_pixels: int = 16_384

    def __post_init__(self) -> None:
        check_positive(self, *(name for name in self.__dataclass_fields__ if name != "jitter"))
        check_not_negative(self, "jitter")
