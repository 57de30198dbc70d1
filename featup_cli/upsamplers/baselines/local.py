"""LIIF and IFA: features at any place, by a network that sees the tokens beside it and where it lies from them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.api import FLOAT, Rows, UpsamplerModule
from featup_cli.upsamplers.baselines.config import IFAConfig, LIIFConfig
from featup_cli.upsamplers.baselines.doubling import known_channels
from featup_cli.upsamplers.guidance import at_least_float32
from featup_cli.upsamplers.interpolation.upsampler import Interpolation


class Beside(NamedTuple):
    """Along one side, the token that each output pixel reads: its index, the offset from it in half cells, a weight."""

    cells: Tensor
    offsets: Tensor
    weights: Tensor


def beside(size: int, cells: int, both: bool, like: Tensor) -> list[Beside]:
    """The tokens on both sides of each of `size` pixels, weighed as bilinear interpolation does; or the nearest."""
    places = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * (cells / size) - 0.5
    first = places.floor() if both else (places + 0.5).floor()
    share = places - first if both else torch.zeros_like(places)
    found = []
    for token, weight in ((first, 1 - share), (first + 1, share))[: 1 + both]:
        token = token.clamp(0, cells - 1)
        found.append(Beside(token.long(), 2 * (places - token), weight))
    return found


class LocalField(UpsamplerModule):
    """Evaluates a network for each output pixel, of the tokens beside it and its offset from them.

    Adapted to frozen features: they are normalised first, and the result is added to bilinear interpolation, at which
    it starts (`residual=False` leaves that out, as the papers do). The network's first layer is linear, so its part
    that sees tokens is computed once a token instead of once a pixel.

    Args:
        channels: C, of the features.
        config: settings; None for the defaults.
    """

    shares_weights = False
    both_sides: bool
    head: nn.Conv2d

    def __init__(self, channels: int, config: Any = None) -> None:
        super().__init__(known_channels(type(self).__name__, channels), config)
        self.norm = nn.GroupNorm(math.gcd(32, channels), channels)
        self._bilinear = Interpolation("bilinear")

    def make_head(self, width: int, channels: int) -> None:
        """The last layer, which is zero before a training if bilinear interpolation is added."""
        self.head = nn.Conv2d(width, channels, 1)
        if self.config.residual:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.get_parameter("bias"))

    @abstractmethod
    def encode(self, normalised: Tensor) -> Tensor:
        """The first layer's part of the tokens: [B, C, h, w] to [B, D, h, w]."""

    @abstractmethod
    def decode(self, codes: Tensor, offsets: Tensor, cell: tuple[float, float]) -> Tensor:
        """Features [B, C, n, W] of the codes [B, D, n, W] of tokens, and offsets [2, n, W] (y, x) in half cells.

        `cell` are the sides of an output pixel, in half cells too.
        """

    def prepare(
        self, image: Tensor, lr_feats: Tensor, size: Size, values: Tensor | None = None, *, whole: bool = True
    ) -> Rows:
        """The codes of the tokens; rows evaluate the network."""
        self.check_call(image, lr_feats, size)
        exact, (height, width) = at_least_float32(lr_feats), lr_feats.shape[2:]
        # In the order of channels last, the backward pass crashes with torch 2.6 on a CPU.
        codes = self.encode(self.norm(lr_feats.to(self.head.weight.dtype).contiguous()))
        smooth = self._bilinear.prepare(image, exact, size)
        ys, xs = (beside(n, m, self.both_sides, exact) for n, m in zip(size, (height, width), strict=True))
        cell = 2 * height / size[0], 2 * width / size[1]

        def rows(top: int, bottom: int) -> Tensor:
            band = slice(top, bottom)
            total = smooth(top, bottom) if self.config.residual else exact.new_zeros(())
            for y in ys:
                near = codes.index_select(2, y.cells[band])
                for x in xs:
                    offsets = torch.stack(torch.meshgrid(y.offsets[band], x.offsets, indexing="ij"))
                    value = self.decode(near.index_select(3, x.cells), offsets, cell)
                    total = torch.addcmul(total, value.to(exact.dtype), y.weights[band, None] * x.weights)
            return total.to(lr_feats.dtype)

        return rows

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The codes, and a band with three maps of the widest layer."""
        batch, channels, height, width = lr_shape
        tokens = height * width * (2 * channels + 2 * self.config.hidden)
        return FLOAT * batch * (tokens + rows * output_size[1] * (3 * channels + 3 * self.config.hidden))


class LIIF(LocalField):
    """Local implicit image function (Chen et al., *Learning Continuous Image Representation with Local Implicit Image
    Function*, 2021, section 3), with feature unfolding, local ensemble and cell decoding.

    The value at x is the sum over the four tokens z_t around it of S_t / S f(z_t, x - v_t, c): v_t is the token's
    centre, S_t the area between x and the token diagonally opposite, and c the size of an output pixel. f is a
    perceptron with ReLU that sees the 3x3 tokens around z_t. It does not look at the picture.
    """

    Config = LIIFConfig
    config: LIIFConfig
    both_sides = True

    def __init__(self, channels: int, config: LIIFConfig | None = None) -> None:
        super().__init__(channels, config)
        config = self.config
        side = 3 if config.unfold else 1
        self.tokens = nn.Conv2d(channels, config.hidden, side, padding=side // 2)
        self.place = nn.Conv2d(4 if config.cell else 2, config.hidden, 1, bias=False)
        self.layers = nn.Sequential()
        for _ in range(config.layers - 2):
            self.layers.extend((nn.ReLU(), nn.Conv2d(config.hidden, config.hidden, 1)))
        self.layers.append(nn.ReLU())
        self.make_head(config.hidden, channels)

    def encode(self, normalised: Tensor) -> Tensor:
        """The 3x3 tokens around each, through the first layer: [B, hidden, h, w]."""
        return self.tokens(normalised)

    def decode(self, codes: Tensor, offsets: Tensor, cell: tuple[float, float]) -> Tensor:
        """f of the codes [B, hidden, n, W], offsets [2, n, W] and sides of an output pixel: [B, C, n, W]."""
        seen = [offsets]
        if self.config.cell:
            seen += [offsets.new_full((1, *offsets.shape[1:]), side) for side in cell]
        return self.head(self.layers(codes + self.place(torch.cat(seen)[None].to(codes.dtype))))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, n, W], so that no pixel depends on another."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise each pixel."""
        return super().forward(maps.movedim(1, 3)).movedim(3, 1)


class IFA(LocalField):
    """Implicit feature alignment (Hu et al., *Learning Implicit Feature Alignment Function for Semantic Segmentation*,
    2022, section 3), with one level of features.

    The value at x is f(z, psi(x - v)) of the nearest token z, with centre v. psi encodes the offset by itself and by
    sines and cosines of learned frequencies, which start at powers of two. f is a perceptron with ReLU. It does not
    look at the picture.

    Adapted further: layer norm replaces the batch norm of the authors, so that a pixel depends on its token alone.
    """

    Config = IFAConfig
    config: IFAConfig
    both_sides = False

    def __init__(self, channels: int, config: IFAConfig | None = None) -> None:
        super().__init__(channels, config)
        config = self.config
        hidden, half = config.hidden, max(1, config.hidden // 2)
        self.compress = nn.Sequential(nn.Conv2d(channels, config.compressed, 1), ChannelNorm(config.compressed))
        self.tokens = nn.Conv2d(config.compressed, hidden, 1)
        powers = 2 ** torch.linspace(0, 6, config.frequencies)
        self.frequencies = nn.Parameter(torch.block_diag(powers[:, None], powers[:, None]))
        self.place = nn.Conv2d(2 + 4 * config.frequencies, hidden, 1, bias=False)
        self.layers = nn.Sequential(ChannelNorm(hidden), nn.ReLU())
        for before, after in ((hidden, half), (half, half)):
            self.layers.extend((nn.Conv2d(before, after, 1), ChannelNorm(after), nn.ReLU()))
        self.make_head(half, channels)

    def encode(self, normalised: Tensor) -> Tensor:
        """Compressed tokens through the first layer: [B, hidden, h, w]."""
        return self.tokens(self.compress(normalised).relu())

    def decode(self, codes: Tensor, offsets: Tensor, cell: tuple[float, float]) -> Tensor:
        """f of the codes [B, hidden, n, W] and offsets [2, n, W]: [B, C, n, W]; `cell` isn't looked at."""
        frequencies = self.frequencies.to(offsets.dtype)[..., None, None]
        angles = frequencies[:, 0] * offsets[0] + frequencies[:, 1] * offsets[1]
        seen = torch.cat((offsets, angles.sin(), angles.cos()))
        return self.head(self.layers(codes + self.place(seen[None].to(codes.dtype))))
