"""The joint bilateral upsampler as the authors of FeatUp released it, for their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.base import Details, check_inputs
from featup_cli.upsamplers.guidance import resize_guidance
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.stack import Size, apply_stack
from featup_cli.upsamplers.jbu.stage import JBUStage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_STAGES = 4


class ReleasedStage(JBUStage):
    """A stage with a learned correction after normalisation, so that weights no longer sum to one."""

    def __init__(self, config: JBUConfig) -> None:
        super().__init__(config)
        taps = (2 * config.radius + 1) ** 2
        self.fixup_proj = nn.Sequential(
            nn.Conv2d(taps + 3, taps, 1), nn.GELU(), nn.Dropout2d(config.dropout), nn.Conv2d(taps, taps, 1)
        )

    def forward(self, guidance: Tensor, coarseness: int = 0) -> Tensor:
        """Weights [B, k * k, H, W] of a guidance [B, 3, H, W]."""
        taps = super().forward(guidance, coarseness)
        return taps.add(self.fixup_proj(torch.cat((taps, guidance), 1)), alpha=0.1)


class ReleasedJBU(nn.Module):
    """Four x2 stages and a residual 1x1 convolution; names of parameters as in the official checkpoints.

    Unlike `JBUUpsampler` it does not keep constants, and its weights belong to one backbone.

    Args:
        channels: of the features.
        mean, std: of the pictures that it was trained on; the picture is normalised with them.
    """

    def __init__(
        self,
        channels: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        config = JBUConfig(
            stages=_STAGES,
            shared=False,
            unit_keys=False,
            temperature=1.0,
            dropout=0.1,
            sharpen_lr=0.0,
            sharpen_lr_wide=0.0,
        )
        self.up1, self.up2, self.up3, self.up4 = (ReleasedStage(config) for _ in range(_STAGES))
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(channels, channels, 1))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.resize = config.resize
        self.details = Details()

    def forward(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> Tensor:
        """Upsample features 16 times; any other output size is reached by resizing the result bilinearly.

        Args:
            image: [B, 3, H', W'] in [0, 1], at any size.
            lr_feats: [B, C, h, w] with the `channels` of the constructor.
            output_size: (H, W), any.
        Returns:
            [B, C, H, W].
        Raises:
            ShapeError: a tensor of another shape.
        """
        check_inputs(image, lr_feats, output_size)
        height, width = lr_feats.shape[2:]
        sizes = [(height * 2**i, width * 2**i) for i in range(1, _STAGES + 1)]
        hr_feats = self.apply_taps(self.taps_of(image, sizes), lr_feats)
        if sizes[-1] == tuple(output_size):
            return hr_feats
        return F.interpolate(hr_feats, size=output_size, mode="bilinear", align_corners=False)

    def taps_of(self, image: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
        """Weights [B, 49, *size] of each stage for a picture [B, 3, H', W'] in [0, 1]."""
        image = (image - self.mean) / self.std
        stages = (self.up1, self.up2, self.up3, self.up4)
        return [stage(resize_guidance(image, size)) for stage, size in zip(stages, sizes, strict=True)]

    def apply_taps(self, taps: Sequence[Tensor], feats: Tensor) -> Tensor:
        """Filter features [B, C, h, w] with the weights of all stages and add the residual: [B, C, H, W]."""
        dropout, residual = self.fixup_proj
        assert isinstance(residual, nn.Conv2d)
        # The residual mixes channels and the stack mixes pixels, so they commute but for the bias: mixing channels
        # at low resolution is 256 times cheaper.
        mixed = feats + 0.1 * F.conv2d(dropout(feats), residual.weight)
        return apply_stack(taps, mixed, self.resize).add_(0.1 * residual.get_parameter("bias")[:, None, None])
