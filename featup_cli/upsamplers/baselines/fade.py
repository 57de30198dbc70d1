"""FADE: reassembly by kernels that picture and features predict together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featup_cli.upsamplers.baselines.config import FADEConfig
from featup_cli.upsamplers.baselines.mixing import Reassembler, bilinear_taps, by_old_pixel, initial_logits
from featup_cli.upsamplers.guidance import picture_stem, resize_guidance


class FADE(Reassembler):
    """Fusing the assets of decoder and encoder (Lu et al., *FADE: Fusing the Assets of Decoder and Encoder for
    Task-Agnostic Upsampling*, 2022).

    Kernels are predicted by a semi-shift convolution: the same convolution of the guidance, around each new pixel, and
    of the compressed features, around the old pixel that it lies in; the sum goes through a softmax. A gate that the
    features predict then mixes the result with a map on the new grid.

    Adapted to frozen features: guidance is made of the picture, averaged to the new grid, by a stem like ReSFU's. The
    paper's gate mixes in the encoder's features, of which there are none in the backbone's feature space; here it is
    bilinear interpolation, so weights still sum to one (ReSFU leaves the gate out for a like reason: `gate=False`).
    Kernels start as a slightly smoothed copy of the old pixel, and the border repeats its pixels.
    """

    Config = FADEConfig
    config: FADEConfig

    def __init__(self, channels: int, config: FADEConfig | None = None) -> None:
        super().__init__(channels, config)
        config = self.config
        self.stem = picture_stem(config.compressed)
        self.compress = nn.Conv2d(channels, config.compressed, 1)
        self.kernels = nn.Conv2d(
            config.compressed, config.kernel_size**2, config.encoder_size,
            padding="same", padding_mode="replicate", bias=False,
        )  # fmt: skip
        nn.init.normal_(self.kernels.weight, std=1e-3)
        bilinear = bilinear_taps(config.kernel_size)
        self.bias = nn.Parameter(initial_logits(bilinear.mean(0)))
        self.bilinear: Tensor
        self.register_buffer("bilinear", bilinear[..., None, None], persistent=False)
        if config.gate:
            self.gate = nn.Conv2d(channels, 1, 1)

    def encode(self, normalised: Tensor) -> Tensor:
        """Compressed features, and the logit of the gate if there is one: [B, D, h, w]."""
        if not self.config.gate:
            return self.compress(normalised)
        return torch.cat((self.compress(normalised), self.gate(normalised)), 1)

    def predict(self, codes: Tensor, image: Tensor) -> Tensor:
        """Taps [B, 4, k * k, h, w], positive and of sum one."""
        height, width = codes.shape[2:]
        guidance = self.stem(resize_guidance(image, (2 * height, 2 * width)))
        around_new = by_old_pixel(self.kernels(guidance)).transpose(1, 2)
        around_old = self.kernels(codes[:, : self.config.compressed])[:, None]
        taps = (around_new + around_old + self.bias[:, None, None]).softmax(2)
        if not self.config.gate:
            return taps
        gate = codes[:, -1:].sigmoid()[:, None]
        return gate * self.bilinear + (1 - gate) * taps
