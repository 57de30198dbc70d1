"""CARAFE: reassembly by kernels that the features predict."""

from __future__ import annotations

from torch import Tensor, nn

from featup_cli.upsamplers.baselines.config import CARAFEConfig
from featup_cli.upsamplers.baselines.mixing import Reassembler, bilinear_taps, initial_logits


class CARAFE(Reassembler):
    """Content-aware reassembly (Wang et al., *CARAFE: Content-Aware ReAssembly of FEatures*, 2019, section 3).

    Features are compressed, a convolution predicts one kernel for each new pixel, and a softmax makes its weights
    sum to one. It does not look at the picture.

    Adapted to frozen features: they are normalised before they are compressed, kernels start as bilinear
    interpolation instead of uniform blur, and the border repeats its pixels instead of being zero.
    """

    Config = CARAFEConfig
    config: CARAFEConfig

    def __init__(self, channels: int, config: CARAFEConfig | None = None) -> None:
        super().__init__(channels, config)
        config = self.config
        self.compress = nn.Conv2d(channels, config.compressed, 1)
        self.kernels = nn.Conv2d(
            config.compressed, 4 * config.kernel_size**2, config.encoder_size, padding="same", padding_mode="replicate"
        )
        nn.init.normal_(self.kernels.weight, std=1e-3)
        self.kernels.bias = nn.Parameter(initial_logits(bilinear_taps(config.kernel_size)).flatten())

    def encode(self, normalised: Tensor) -> Tensor:
        """Compressed features [B, D, h, w]."""
        return self.compress(normalised)

    def predict(self, codes: Tensor, image: Tensor) -> Tensor:
        """Taps [B, 4, k * k, h, w], positive and of sum one."""
        return self.kernels(codes).unflatten(1, (4, -1)).softmax(2)
