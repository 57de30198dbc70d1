"""What is fitted: a field that gives features at any position of one picture.

A field maps positions (y, x), in units of picture height and width, and the colours found there to K coefficients
in the basis of the features' principal components.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.multiview.lookup import gather, grid_taps, sample_grid
from featup_cli.upsamplers.implicit.config import ImplicitConfig


def fourier_features(x: Tensor, frequencies: Tensor) -> Tensor:
    """Component-wise sine and cosine of [N, D] at F angular frequencies: [N, 2 D F] (FeatUp, equation 7)."""
    angles = (x[:, :, None] * frequencies).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), 1)


def frequency_ladder(highest: float, count: int) -> Tensor:
    """`count` angular frequencies in geometric progression from a quarter turn per unit, or `highest` if lower."""
    lowest = min(math.pi / 2, highest)
    return torch.logspace(math.log10(lowest), math.log10(highest), max(count, 1))[:count]


class ImplicitNetwork(nn.Module):
    """MLP on Fourier features of position and colour (FeatUp, equation 7, section 3.2 and table 7).

    Positions are measured in half short sides of the network input, so frequencies mean the same along both axes;
    the highest stays below the Nyquist limit of the pixel grid.

    Args:
        components: K, channels of the output.
        size: (height, width) of the backbone's input.
        config: frequencies, layers and so on.
        context: further inputs given to `forward`.
    """

    extent: Tensor
    position_frequencies: Tensor
    color_frequencies: Tensor

    def __init__(self, components: int, size: Size, config: ImplicitConfig, context: int = 0) -> None:
        super().__init__()
        self.color_features = config.color_features
        nyquist = math.pi * min(size) / 2  # radians per half short side: half a turn a pixel
        self.register_buffer("extent", torch.tensor(size) / (min(size) / 2))
        self.register_buffer(
            "position_frequencies", frequency_ladder(config.position_limit * nyquist, config.frequencies)
        )
        self.register_buffer("color_frequencies", frequency_ladder(config.color_limit, config.color_frequencies))
        width = 2 + 4 * config.frequencies + context
        if config.color_features:
            width += 3 + 6 * config.color_frequencies
        trunk: list[nn.Module] = []
        for _ in range(config.layers - 1):
            trunk += [nn.Linear(width, config.hidden), nn.LayerNorm(config.hidden), nn.ReLU()]
            trunk.append(nn.Dropout(config.dropout))
            width = config.hidden
        self.trunk = nn.Sequential(*trunk)
        self.head = nn.Linear(width, components)

    def forward(self, position: Tensor, color: Tensor, context: Tensor | None = None) -> Tensor:
        """Coefficients [N, K] at positions [N, 2] of colour [N, 3], given further inputs [N, context]."""
        centred = (position - 0.5) * self.extent
        inputs = [centred, fourier_features(centred, self.position_frequencies)]
        if self.color_features:
            inputs += [color - 0.5, fourier_features(color - 0.5, self.color_frequencies)]
        if context is not None:
            inputs.append(context)
        return self.head(self.trunk(torch.cat(inputs, 1)))


class AnchoredNetwork(nn.Module):
    """A network that corrects a small grid of coefficients with a local linear model of colour.

        F(p) = grid(p) + slope(p) (color(p) - mean_color(p)) + MLP(p, color(p), ...)

    Grid and slope hold what a few tokens already tell, the MLP what is finer. A network alone (the paper's) has to
    learn the coarse layout first, which takes most of its steps. The linear colour model is the guided filter's (He et
    al., 2010), its coefficients fitted to the views instead of to one map.

    Args:
        grid: [K, h', w'] initial coefficients, sampled bicubically.
        slope: [3 K, h, w] initial change of each coefficient with colour; zero without colour features.
        mean_color: [3, h'', w''] local mean of the picture.
        size: (height, width) of the backbone's input.
        config: as `ImplicitNetwork`.
    """

    mean_color: Tensor
    context_components = 32
    contrast_gain = 4.0

    def __init__(self, grid: Tensor, slope: Tensor, mean_color: Tensor, size: Size, config: ImplicitConfig) -> None:
        super().__init__()
        self.grid = nn.Parameter(grid.clone())
        self.slope = nn.Parameter(slope.clone()) if config.color_features else None
        self.register_buffer("mean_color", mean_color.clone())
        context = min(self.context_components, len(grid)) + (3 if config.color_features else 0)
        self.network = ImplicitNetwork(len(grid), size, config, context)
        # The correction starts at zero, so the fit starts at its closed-form initialisation.
        nn.init.zeros_(self.network.head.weight)
        nn.init.zeros_(self.network.head.bias)

    def forward(self, position: Tensor, color: Tensor) -> Tensor:
        """Coefficients [N, K] at positions [N, 2] of colour [N, 3]."""
        anchor = sample_grid(self.grid, position, cubic=True)
        context = [anchor[:, : self.context_components].detach()]
        if self.slope is not None:
            contrast = color - sample_grid(self.mean_color, position)
            anchor = anchor + self.colour_model(self.slope, position, contrast)
            context.append(self.contrast_gain * contrast)
        return anchor + self.network(position, color, torch.cat(context, 1))

    @staticmethod
    def colour_model(slope: Tensor, position: Tensor, contrast: Tensor) -> Tensor:
        """Slopes [3 K, h, w], looked up at positions [N, 2] and multiplied with contrasts [N, 3]: [N, K]."""
        height, width = slope.shape[1:]
        cells, weights = grid_taps(position, (height, width), cubic=False)
        colors = torch.arange(3, device=cells.device)[:, None]
        table = slope.view(3, -1, height * width).transpose(1, 2).flatten(0, 1)
        every = (cells[:, None] + colors * height * width).flatten(1)
        return gather(table, every, (contrast[:, :, None] * weights[:, None]).flatten(1))


class BilinearField(nn.Module):
    """The low-resolution features themselves, interpolated: the baseline that a fit must beat."""

    grid: Tensor

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.register_buffer("grid", grid)

    def forward(self, position: Tensor, color: Tensor) -> Tensor:
        """Coefficients [N, K], bilinear between the cells of the grid."""
        return sample_grid(self.grid, position)


class FeatureBuffer(BilinearField):
    """Explicit map of coefficients in place of the network (FeatUp, figure 9): one vector a pixel, no image."""

    def __init__(self, initial: Tensor) -> None:
        nn.Module.__init__(self)
        self.grid = nn.Parameter(initial.clone())
