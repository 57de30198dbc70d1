"""`tiny`, the embedded backbone: a stride-16 convolutional network that ships inside the package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.precision import Precision
from featup_cli.backbones.tiny.loader import LOADER
from featup_cli.backbones.weights import digest, load_weights, misfits, read_weights, seeded
from featup_cli.core.errors import WeightsError

TINY_STRIDE = 16
TINY_CHANNELS = 96


class LargeKernelBlock(nn.Module):
    """Residual block: 7x7 depthwise convolution, batch norm, and a pointwise MLP (ConvNeXt's order, ReLU for speed)."""

    def __init__(self, width: int, expansion: int = 3) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, width * expansion, 1)
        self.project = nn.Conv2d(width * expansion, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, width, h, w] to the same shape."""
        return x + self.project(torch.relu_(self.expand(self.norm(self.spatial(x)))))


class Downsample(nn.Sequential):
    """3x3 convolution of stride 2, batch norm, ReLU: halves both sides (rounding up)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class TinyNet(nn.Module):
    """Convolutional network of stride 16 with 1.6 M parameters and a receptive field of several hundred pixels.

    Input: [B, 3, H, W] in [0, 1]; H and W multiples of 16. Output: [B, channels, H / 16, W / 16].
    """

    def __init__(
        self,
        channels: int = TINY_CHANNELS,
        widths: tuple[int, int, int, int] = (24, 48, 96, 160),
        depths: tuple[int, int, int] = (1, 2, 8),
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = [Downsample(3, widths[0])]
        for width_in, width, depth in zip(widths[:-1], widths[1:], depths, strict=True):
            stages.append(Downsample(width_in, width))
            stages.extend(LargeKernelBlock(width) for _ in range(depth))
        self.body = nn.Sequential(*stages)
        self.head = nn.Conv2d(widths[-1], channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map [B, 3, H, W] in [0, 1] to features [B, channels, H / 16, W / 16]."""
        return self.head(self.body((image - 0.5) * 4.0))


def load_tiny(path: Path | None = None) -> TinyNet:
    """Build the network in eval mode with the packaged weights, or with those of `path`.

    Weights are stored in half precision (batch-norm statistics in float32) and computed with in float32.
    """
    with as_file(path or files("featup_cli") / "weights" / "tiny.safetensors") as file:
        state = load_file(file)
    network = TinyNet()
    network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return network.eval().requires_grad_(False)


def recognize(state: Mapping[str, Tensor]) -> str | None:
    """`tiny` if these tensors are its weights."""
    with torch.device("meta"):
        return None if misfits(TinyNet().state_dict(), state) else LOADER.name


def load(config: BackboneConfig, device: torch.device) -> Backbone:
    """Load `tiny` as `load_backbone` does."""
    if config.random_weights:
        source = "random"
        with seeded():
            network = TinyNet()
    elif config.weights is not None:
        source, network = f"file:{config.weights}", TinyNet()
        load_weights(network, read_weights(config.weights), config.name)
    else:
        source = "packaged"
        try:
            network = load_tiny()
        except FileNotFoundError:
            raise WeightsError("the weights of tiny are missing from this installation: reinstall featup") from None
    return Backbone(
        network=network.eval().requires_grad_(False).to(device),
        name=config.name,
        resolved="tiny",
        channels=TINY_CHANNELS,
        stride=TINY_STRIDE,
        patch_multiple=TINY_STRIDE,
        weights_source=source,
        weights_sha256=digest(network.state_dict()),
        device=device,
        precision=Precision(config.precision, device),
        details={"torch": torch.__version__},
    )
