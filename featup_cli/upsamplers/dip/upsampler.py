"""The deep image prior behind the call that all upsamplers share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.errors import ShapeError
from featup_cli.core.progress import Progress, no_progress
from featup_cli.core.shapes import Size
from featup_cli.multiview.optimize import warm_cosine
from featup_cli.ops.pca import PCA, fit_pca
from featup_cli.upsamplers.api import FLOAT, Details, Rows, RowUpsampler, check_inputs
from featup_cli.upsamplers.dip.config import DIPConfig
from featup_cli.upsamplers.dip.network import Hourglass
from featup_cli.upsamplers.interpolation.upsampler import Interpolation
from featup_cli.upsamplers.method import Making

WARMUP_STEPS = 10
ACTIVATIONS = 40  # maps of the network's width and size that a step holds


class DIPUpsampler(RowUpsampler):
    """Deep image prior (Ulyanov, Vedaldi and Lempitsky, 2018, super-resolution), a baseline of FeatUp's tables 1 and 2.

    A convolutional network that turns noise into features is fitted so that these, averaged over each token's cell,
    equal the token; it sees neither the picture nor other views. What lies inside a cell is the network's habit alone.

    Args:
        config: settings.
        seed: the same seed on the same device gives the same result.
        progress: called as the fit goes on.
    """

    def __init__(self, config: DIPConfig | None = None, seed: int = 0, progress: Progress = no_progress) -> None:
        super().__init__()
        self.config = config or DIPConfig()
        self.seed, self.progress = seed, progress
        self._interpolation = Interpolation("bilinear")

    @torch.no_grad()
    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Rows:
        """Fit the network; rows are interpolated from what it gives. ShapeError for more than one picture."""
        check_inputs(image, lr_feats, size)
        if len(lr_feats) != 1:
            raise ShapeError(f"dip fits one picture at a time, not {len(lr_feats)}")
        pca = fit_pca(lr_feats[0].flatten(1).T, self.config.components)
        rows = self._interpolation.prepare(image, self._fit(pca, lr_feats, size), size)
        return lambda top, bottom: pca.reconstruct(rows(top, bottom)[0])[None].to(lr_feats)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """A step of the fit, and the interpolation of a band and its reconstruction."""
        config = self.config
        height, width = output_grid((lr_shape[2], lr_shape[3]), output_size, config.max_pixels)
        fit = FLOAT * ACTIVATIONS * config.width * height * width
        mixed = self._interpolation.band_bytes((1, config.components, height, width), output_size, rows)
        return fit + mixed + 2 * FLOAT * lr_shape[1] * rows * output_size[1]

    def _fit(self, pca: PCA, lr_feats: Tensor, output_size: Size) -> Tensor:
        """Coefficients [1, K, H', W'] of the fitted network, at the size of `output_grid`."""
        config = self.config
        target = pca.project(lr_feats[0].float())[None]
        spread = target.square().mean().sqrt().clamp_min(1e-6)
        target = target / spread
        grid = (target.shape[2], target.shape[3])
        size = output_grid(grid, output_size, config.max_pixels)
        accelerators = [target.device.index] if target.device.type == "cuda" else []
        with torch.random.fork_rng(devices=accelerators), torch.enable_grad():
            torch.manual_seed(self.seed)
            network = Hourglass(config, size, target.shape[1]).to(target.device)
            noise = config.noise * torch.rand(1, config.noise_channels, *size).to(target.device)
            optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
            for step in range(1, config.steps + 1):
                optimizer.param_groups[0]["lr"] = config.learning_rate * warm_cosine(step, config.steps, WARMUP_STEPS)
                error = F.mse_loss(pooled(network, noise + config.jitter * torch.randn_like(noise), grid), target)
                optimizer.zero_grad(set_to_none=True)
                error.backward()
                optimizer.step()
                self.progress("fit", step, config.steps, f"unexplained {error.item():.1%}")
        with torch.no_grad():
            left = F.mse_loss(pooled(network, noise, grid), target) / target.square().mean().clamp_min(1e-12)
            explained = float(pca.explained_ratio.sum())
            scores = {"pooled_error": float(left), "pca_explained_variance": explained, "steps": float(config.steps)}
            self.details = Details(scores)
            return network(noise) * spread


def pooled(network: Hourglass, noise: Tensor, grid: Size) -> Tensor:
    """The network's output averaged over each token's cell; averages pass through the linear head, which is cheaper."""
    cells = (noise.shape[2] // grid[0], noise.shape[3] // grid[1])
    return network.head(F.avg_pool2d(network.features(noise), cells))


def output_grid(grid: Size, output_size: Size, max_pixels: int) -> Size:
    """(height, width) of the network's own output: 2, 4, 8, ... times the token grid, as far as the output is no
    smaller and `max_pixels` allow."""
    scale, room = 2, min(output_size[0] / grid[0], output_size[1] / grid[1])
    while 4 * scale**2 * grid[0] * grid[1] <= max_pixels and 2 * scale <= room:
        scale *= 2
    return scale * grid[0], scale * grid[1]


def build(making: Making) -> DIPUpsampler:
    """A deep image prior for one picture."""
    return DIPUpsampler(making.config, making.seed, making.progress)
