"""The deep image prior behind the call that all upsamplers share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.multiview.optimize import warm_cosine
from featup_cli.ops.pca import PCA
from featup_cli.upsamplers.api import FLOAT, Details
from featup_cli.upsamplers.components import ComponentFit, output_grid
from featup_cli.upsamplers.dip.config import DIPConfig
from featup_cli.upsamplers.dip.method import METHOD
from featup_cli.upsamplers.dip.network import Hourglass
from featup_cli.upsamplers.method import Making

WARMUP_STEPS = 10
ACTIVATIONS = 40  # maps of the network's width and size that a step holds


class DIPUpsampler(ComponentFit):
    """Deep image prior (Ulyanov, Vedaldi and Lempitsky, 2018, super-resolution), a baseline of FeatUp's tables 1 and 2.

    A convolutional network that turns noise into features is fitted so that these, averaged over each token's cell,
    equal the token; it sees neither the picture nor other views. What lies inside a cell is the network's habit alone.
    """

    method = METHOD
    config: DIPConfig

    def fit_bytes(self, size: Size) -> int:
        """The maps of a step."""
        return FLOAT * ACTIVATIONS * self.config.width * size[0] * size[1]

    def fit(self, pca: PCA, lr_feats: Tensor, output_size: Size) -> Tensor:
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


def build(making: Making) -> DIPUpsampler:
    """A deep image prior for one picture."""
    return DIPUpsampler(making.config, making.seed, making.progress)
