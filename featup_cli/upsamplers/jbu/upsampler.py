"""FeatUp's feed-forward upsampler: a stack of joint bilateral stages guided by the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.ops.sharpen import make_strengths, sharpen
from featup_cli.upsamplers.api import UpsamplerModule, check_inputs
from featup_cli.upsamplers.guidance import at_least_float32
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.plan import grid_sizes, stack_bytes
from featup_cli.upsamplers.jbu.stack import Stack
from featup_cli.upsamplers.jbu.stage import Band, JBUStage


class JBUUpsampler(UpsamplerModule):
    """Stack of joint bilateral stages for features of any backbone (FeatUp, section 3.2, equations 3 to 6).

    Weights see the picture only, are shared by all channels and sum to one: the map is linear in the features and
    keeps constants. In eval mode it is deterministic.
    """

    Config = JBUConfig
    config: JBUConfig
    linear_in_features = True
    any_picture = True
    replayable = True

    def __init__(self, config: JBUConfig | None = None) -> None:
        super().__init__(None, config)
        config = self.config
        self.stages = nn.ModuleList(JBUStage(config) for _ in range(1 if config.shared else config.stages or 1))
        self.sharpen_lr = make_strengths(config.sharpen_lr, config.sharpen_lr_wide)

    @classmethod
    def from_arguments(cls, **settings: Any) -> JBUUpsampler:
        """A module with initial weights, of its settings alone."""
        return cls(JBUConfig(**settings))

    def arguments(self) -> dict[str, Any]:
        """The settings."""
        return asdict(self.config)

    def prepare(
        self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None = None, *, whole: bool = True
    ) -> Stack:
        """The stack, its early stages made."""
        check_inputs(image, lr_feats, size)
        # Kernels are so sharp that a picture averaged in a half type moves the result by five times its rounding.
        image = image if image.dtype == torch.uint8 else at_least_float32(image)
        sizes = grid_sizes((lr_feats.shape[2], lr_feats.shape[3]), size, self.config.stages)

        def weigh(number: int, guidance: Tensor, band: Band) -> Tensor:
            taps: Tensor = self.stages[min(number, len(self.stages) - 1)](guidance, band, len(sizes) - 1 - number)
            return taps

        feats = sharpen(lr_feats if values is None else values, self.sharpen_lr)
        return Stack(image, feats, sizes, self.config.radius, self.config.resize, weigh)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The rows of all stages that a band needs, and their weights."""
        sizes = grid_sizes((lr_shape[2], lr_shape[3]), output_size, self.config.stages)
        # Hidden and output layer of the keys, the keys scaled to unit length, and padded.
        maps = 4 * self.config.key_size if self.config.mlp else 8
        return stack_bytes(lr_shape, sizes, self.config.radius, maps, rows)
