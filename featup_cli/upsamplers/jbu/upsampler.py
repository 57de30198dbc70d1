"""FeatUp's feed-forward upsampler: a stack of joint bilateral stages guided by the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor, nn

from featup_cli.ops.sharpen import make_strengths, sharpen
from featup_cli.ops.taps import Size, guidance_rows
from featup_cli.upsamplers.api import UpsamplerModule, check_inputs, without_gradients
from featup_cli.upsamplers.jbu.bands import BandedStack, stack_bytes
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.stack import apply_stack, grid_sizes
from featup_cli.upsamplers.jbu.stage import Band, JBUStage, weigh_in_parts, whole


class JBUUpsampler(UpsamplerModule):
    """Stack of joint bilateral stages for features of any backbone (FeatUp, section 3.2, equations 3 to 6).

    Weights see the picture only, are shared by all channels and sum to one: the map is linear in the features and
    keeps constants. In eval mode it is deterministic.
    """

    Config = JBUConfig
    config: JBUConfig
    linear_in_features = True

    def __init__(self, config: JBUConfig | None = None) -> None:
        super().__init__(None, config)
        config = self.config
        self.stages = nn.ModuleList(JBUStage(config) for _ in range(1 if config.shared else config.stages or 1))
        self.sharpen_lr = make_strengths(config.sharpen_lr, config.sharpen_lr_wide)

    @classmethod
    def from_arguments(cls, **settings: Any) -> JBUUpsampler:
        """A module with initial weights; see `UpsamplerModule.from_arguments`."""
        return cls(JBUConfig(**settings))

    def arguments(self) -> dict[str, Any]:
        """The settings; see `UpsamplerModule.arguments`."""
        return asdict(self.config)

    def forward(self, image: Tensor, lr_feats: Tensor, output_size: Size, values: Tensor | None = None) -> Tensor:
        """Upsample features.

        Args:
            image: [B, 3, H', W'] in [0, 1], at any size.
            lr_feats: [B, C, h, w].
            output_size: (H, W), any.
            values: [B, K, h, w], upsampled in place of `lr_feats` with the same weights: a linear map of them, say.
        Returns:
            [B, C, H, W], or [B, K, H, W] with `values`.
        Raises:
            ShapeError: a tensor of another shape.
        """
        check_inputs(image, lr_feats, output_size)
        height, width = lr_feats.shape[2:]
        sizes = grid_sizes((height, width), output_size, self.config.stages)
        return self.apply_taps(self.taps_of(image, sizes), lr_feats if values is None else values)

    def taps_of(self, image: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
        """Weights [B, k * k, *size] of each stage, for a picture [B, 3, H', W'] and the sizes of `grid_sizes`."""
        return [self._weigh(image, sizes, i, whole(size, self.config.radius)) for i, size in enumerate(sizes)]

    def _weigh(self, image: Tensor, sizes: Sequence[Size], number: int, band: Band) -> Tensor:
        """Weights of a band of stage `number`; without gradients a few rows at a time, as keys are many maps."""
        return weigh_in_parts(partial(self._weigh_rows, image, sizes, number), band)

    def _weigh_rows(self, image: Tensor, sizes: Sequence[Size], number: int, band: Band) -> Tensor:
        # Also for the whole: the kernels of coarse stages are so sharp that the last digit of the guidance counts.
        guidance = guidance_rows(image, sizes[number], band.first, band.stop)
        stage = self.stages[min(number, len(self.stages) - 1)]
        weights: Tensor = stage(guidance, len(sizes) - 1 - number, band)
        return weights

    def apply_taps(self, taps: Sequence[Tensor], feats: Tensor) -> Tensor:
        """Filter features [B, C, h, w] with the weights of all stages: [B, C, H, W]; linear in the features."""
        return apply_stack(taps, sharpen(feats, self.sharpen_lr), self.config.resize)

    @without_gradients
    def bands(self, image: Tensor, lr_feats: Tensor, output_size: Size, rows: int, start: int = 0) -> Iterator[Tensor]:
        """The result of the call in bands of rows; see `Upsampler.bands`."""
        check_inputs(image, lr_feats, output_size)
        sizes = grid_sizes((lr_feats.shape[2], lr_feats.shape[3]), output_size, self.config.stages)

        weigh = partial(self._weigh, image, sizes)
        feats = sharpen(lr_feats, self.sharpen_lr)
        yield from BandedStack(feats, sizes, self.config.radius, self.config.resize, weigh).bands(rows, start)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The rows of all stages that a band needs, and their weights; see `Upsampler.band_bytes`."""
        sizes = grid_sizes((lr_shape[2], lr_shape[3]), output_size, self.config.stages)
        # Hidden and output layer of the keys, the keys scaled to unit length, and padded.
        maps = 4 * self.config.key_size if self.config.mlp else 8
        return stack_bytes(lr_shape, sizes, self.config.radius, maps, rows)
