"""DGF: the guided filter with guidance that a network makes of the picture's colours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.ops.taps import guidance_rows, interpolating_rows, resize_rows
from featup_cli.upsamplers.api import FLOAT, Rows, UpsamplerModule
from featup_cli.upsamplers.baselines.config import DGFConfig
from featup_cli.upsamplers.baselines.doubling import known_channels
from featup_cli.upsamplers.guidance import at_least_float32, like_features, resize_guidance


class DGF(UpsamplerModule):
    """Trainable guided filter (Wu et al., *Fast End-to-End Trainable Guided Filter*, 2018, algorithm 1), with a map of
    guidance for each channel.

    Two 1x1 convolutions make guidance g of the picture. In every window of tokens each channel f is fitted by a linear
    function of its guidance, averaged to the tokens: a = cov(g, f) / (var(g) + epsilon), b = mean(f) - a mean(g). Both
    are interpolated bilinearly, and the result is a g + b at any size. Constants are kept, and a channel is linear in
    itself.

    Args:
        channels: C, of the features.
        config: settings; None for the defaults.
    """

    Config = DGFConfig
    config: DGFConfig
    shares_weights = False

    def __init__(self, channels: int, config: DGFConfig | None = None) -> None:
        super().__init__(known_channels(type(self).__name__, channels), config)
        self.colour = nn.Conv2d(3, self.config.hidden, 1)
        self.guide = nn.Conv2d(self.config.hidden, channels, 1)

    def guidance(self, picture: Tensor) -> Tensor:
        """Guidance [B, C, h, w] of [B, 3, h, w], in the dtype of the picture."""
        for layer in (self.colour, self.guide):
            weight, bias = layer.weight.to(picture.dtype), layer.get_parameter("bias").to(picture.dtype)
            picture = F.conv2d(picture if layer is self.colour else picture.relu(), weight, bias)
        return picture

    def fit(self, guidance: Tensor, feats: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and offsets [B, C, h, w] of features as linear functions of guidance, both of that shape."""
        centre = feats.mean((2, 3), keepdim=True)  # far from zero the differences would lose digits
        feats = feats - centre
        products = torch.cat((guidance, feats, guidance * guidance, guidance * feats), 1)
        mean, mean_feats, square, product = self.window_mean(products).chunk(4, 1)
        slope = (product - mean * mean_feats) / (square - mean * mean + self.config.epsilon)
        return slope, mean_feats - slope * mean + centre

    def window_mean(self, maps: Tensor) -> Tensor:
        """Mean over the part of each window that lies inside the map."""
        side = 2 * self.config.radius + 1
        return F.avg_pool2d(maps, side, 1, self.config.radius, count_include_pad=False)

    def prepare(
        self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None = None, *, whole: bool = True
    ) -> Rows:
        """The linear functions; rows are their values."""
        self.check_call(image, lr_feats, size)
        # (Co)variances are small differences of products, and are divided by each other.
        exact, kind = at_least_float32(lr_feats), lr_feats.device.type
        image = like_features(image, exact)
        with torch.autocast(kind, enabled=False):
            coarse = resize_guidance(image, (exact.shape[2], exact.shape[3])).to(exact.dtype)
            slope, offset = self.fit(self.guidance(coarse), exact)
        taps = interpolating_rows("bilinear", size[0], exact.shape[2], exact)

        def rows(top: int, bottom: int) -> Tensor:
            with torch.autocast(kind, enabled=False):
                guidance = self.guidance(guidance_rows(image, size, top, bottom).to(exact.dtype))
            a, b = (resize_rows(maps, taps[top:bottom], size[1], "bilinear") for maps in (slope, offset))
            return torch.addcmul(b, a, guidance).to(lr_feats.dtype)

        return rows

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The fit, and a band of guidance, slopes and offsets."""
        batch, channels, height, width = lr_shape
        band = rows * (output_size[1] * (4 * channels + self.config.hidden + 3) + 2 * channels * width)
        return FLOAT * batch * (12 * channels * height * width + band)
