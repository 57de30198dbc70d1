"""Fit a field to the views of one picture.

The multi-view loss (FeatUp, equation 1) without rendering: a step draws tokens of random views and positions inside
each token's window, maps the positions to the picture by the view's transform, evaluates the field there only, pools
by the downsampler and compares with the observed tokens. Its cost depends on neither the picture's nor the output's
size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from featup_cli.config import ImplicitConfig
from featup_cli.multiview.downsample import SimpleDownsampler, make_downsampler
from featup_cli.multiview.losses import (
    Uncertainty,
    gaussian_likelihood,
    magnitude_variation,
    squared_error,
)
from featup_cli.multiview.optimize import make_optimizer, warm_cosine
from featup_cli.multiview.views import mirror
from featup_cli.multiview.windows import half_window, lattice_offsets, stratified_offsets, window_positions
from featup_cli.upsamplers.base import Progress
from featup_cli.upsamplers.implicit.anchor import fit_slopes, mean_of_views
from featup_cli.upsamplers.implicit.model import (
    AnchoredNetwork,
    BilinearField,
    FeatureBuffer,
    ImplicitNetwork,
    sample_grid,
)
from featup_cli.upsamplers.implicit.observe import Observations

WARMUP_STEPS = 20
CHECKS = 8  # looks at the held-out views during a fit
HELDOUT_TOKENS = 800
HELDOUT_POSITIONS = 25
VARIATION_SAMPLES = 512


@dataclass(frozen=True)
class Fit:
    """A field fitted to views, its downsampler, and its held-out score.

    `explained` is the share of the held-out views' variance, over all channels, that the pooled field explains.
    """

    field: nn.Module
    downsampler: SimpleDownsampler
    uncertainty: Uncertainty | None
    explained: float
    steps: int


class TokenSampler:
    """Draws tokens and the positions inside their windows.

    Args:
        observations: the views and what was seen in them.
        picture: [3, H, W], the colours at the network's input size.
        stride: pixels per token.
        config: kernel size.
    """

    def __init__(self, observations: Observations, picture: Tensor, stride: int, config: ImplicitConfig) -> None:
        self.observations = observations
        self.picture = picture
        self.grid = (observations.tokens.shape[2], observations.tokens.shape[3])
        size = (picture.shape[1], picture.shape[2])
        self.half_window = picture.new_tensor(half_window(config.kernel_size, stride, size))

    def positions(self, view: Tensor, row: Tensor, col: Tensor, offset: Tensor) -> Tensor:
        """Positions in the picture of offsets [T, P, 2] (-1 to 1, window edge to edge) around tokens [T]: [T, P, 2]."""
        inside = window_positions(row, col, offset, self.grid, self.half_window)
        return self.observations.views.to_image(view[:, None].expand(offset.shape[:2]), inside)

    def colors(self, position: Tensor) -> Tensor:
        """Colours [N, 3] at positions [N, 2]."""
        return sample_grid(self.picture, position)

    def observed(self, view: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Observed tokens [T, K]."""
        return self.observations.tokens[view, :, row, col]

    def draw(self, views: range, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """View, row and column of `count` random tokens of `views`."""
        device = self.picture.device

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (count,), generator=generator).to(device)

        return integers(views.start, views.stop), integers(0, self.grid[0]), integers(0, self.grid[1])


def make_field(observations: Observations, picture: Tensor, config: ImplicitConfig) -> nn.Module:
    """The field that `config` asks for, at its initial values, on the picture's device."""
    size = (picture.shape[1], picture.shape[2])
    tokens = observations.tokens
    if config.representation == "network" and not config.anchored:
        return ImplicitNetwork(tokens.shape[1], size, config).to(picture.device)
    grid = mean_of_views(tokens[: observations.fitted], observations.views[: observations.fitted], config.sharpening)
    if config.representation == "buffer":
        pixels = nn.functional.interpolate(grid[None], size=size, mode="bicubic", align_corners=False)[0]
        return FeatureBuffer(pixels)
    smooth, slope, mean_color = fit_slopes(grid, picture, (tokens.shape[2], tokens.shape[3]))
    return AnchoredNetwork(smooth if config.color_features else grid, slope, mean_color, size, config).to(
        picture.device
    )


@torch.no_grad()
def explained_variance(field: nn.Module, downsampler: SimpleDownsampler, sampler: TokenSampler) -> float:
    """Share of the variance of the held-out views' features that the pooled field explains (1 is perfect).

    Positions form a fixed lattice and tokens a fixed draw, so that scores compare. What PCA left out counts as
    unexplained.
    """
    seen = sampler.observations
    generator = torch.Generator().manual_seed(0)
    view, row, col = sampler.draw(range(seen.fitted, len(seen.views)), HELDOUT_TOKENS, generator)
    lattice = lattice_offsets(HELDOUT_POSITIONS, sampler.picture.device)
    mean = seen.tokens[: seen.fitted].mean((0, 2, 3))
    error, total = 0.0, 0.0
    for part in torch.arange(HELDOUT_TOKENS, device=view.device).split(128):
        offset = lattice.expand(len(part), -1, -1)
        position = sampler.positions(view[part], row[part], col[part], offset).flatten(0, 1)
        features = field(position, sampler.colors(position)).view(*offset.shape[:2], -1)
        observed = sampler.observed(view[part], row[part], col[part])
        error += float((downsampler(features, offset) - observed).square().sum())
        total += float((observed - mean).square().sum())
    tokens_a_view = sampler.grid[0] * sampler.grid[1]
    left_out = float(seen.left_out[seen.fitted :].mean()) / tokens_a_view / seen.scale**2 * HELDOUT_TOKENS
    return 1 - (error + left_out) / max(total + left_out, 1e-12)


def fit_field(
    field: nn.Module,
    sampler: TokenSampler,
    config: ImplicitConfig,
    generator: torch.Generator,
    progress: Callable[[int, float], None],
) -> Fit:
    """Optimise a field, or only its downsampler if it has no parameters.

    Args:
        field: at its initial values; moved, not copied.
        sampler: where tokens come from.
        config: settings.
        generator: CPU generator; the same one gives the same fit.
        progress: called with the steps done and the last held-out score.
    """
    components = sampler.observations.tokens.shape[1]
    device = sampler.picture.device
    downsampler = make_downsampler(config.downsampler, components, config.kernel_width).to(device)
    uncertainty = Uncertainty(components).to(device) if config.uncertainty else None
    fitted: list[nn.Module] = [field, downsampler] + ([uncertainty] if uncertainty else [])
    parameters = [p for module in fitted for p in module.parameters()]
    optimizer = make_optimizer(config.optimizer, [{"params": parameters, "lr": config.learning_rate}])
    both = nn.ModuleList([field, downsampler])
    average = AveragedModel(both, multi_avg_fn=get_ema_multi_avg_fn(config.average)) if config.average else None

    def averaged() -> tuple[nn.Module, SimpleDownsampler]:
        module = average.module if average is not None else both
        return module[0].eval(), module[1].eval()  # type: ignore[index]

    best, best_score, checks_since = copy.deepcopy(averaged()), -math.inf, 0
    interval = max(1, config.max_steps // CHECKS)
    step = 0
    for step in range(1, config.max_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm_cosine(step, config.max_steps, WARMUP_STEPS)
        for module in fitted:
            module.train()
        loss = multiview_loss(field, downsampler, uncertainty, sampler, config, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(both)
        if step % interval == 0 or step == config.max_steps:
            score = explained_variance(*averaged(), sampler)
            if score > best_score:
                best, best_score, checks_since = copy.deepcopy(averaged()), score, 0
            else:
                checks_since += 1
        progress(step, best_score)
        if checks_since >= config.patience:
            break
    return Fit(best[0], best[1], uncertainty, best_score, step)


def multiview_loss(
    field: nn.Module,
    downsampler: SimpleDownsampler,
    uncertainty: Uncertainty | None,
    sampler: TokenSampler,
    config: ImplicitConfig,
    generator: torch.Generator,
) -> Tensor:
    """Loss of one random draw: reconstruction (equation 1) and the priors (equation 8, section 6.4)."""
    device = sampler.picture.device
    view, row, col = sampler.draw(range(sampler.observations.fitted), config.tokens, generator)
    offset = stratified_offsets(config.tokens, config.positions, generator).to(device)
    position = sampler.positions(view, row, col, offset).flatten(0, 1)
    features = field(position, sampler.colors(position))
    observed = sampler.observed(view, row, col)
    error = squared_error(downsampler(features.view(*offset.shape[:2], -1), offset), observed)
    loss = gaussian_likelihood(error, uncertainty(observed)) if uncertainty is not None else error.mean()
    if config.tv_weight:
        chosen = torch.randint(len(position), (VARIATION_SAMPLES,), generator=generator).to(device)
        height, width = sampler.picture.shape[1:]
        steps = position.new_tensor([[1 / height, 0.0], [0.0, 1 / width]])
        below, right = (mirror(position[chosen] + step) for step in steps)
        loss = loss + config.tv_weight * magnitude_variation(
            features[chosen], field(below, sampler.colors(below)), field(right, sampler.colors(right))
        )
    if config.magnitude_weight:
        loss = loss + config.magnitude_weight * features.square().mean()
    return loss


def fit_implicit(
    observations: Observations, picture: Tensor, stride: int, config: ImplicitConfig, seed: int, progress: Progress
) -> tuple[Fit, Fit]:
    """Fit the field and, as the baseline, the downsampler of bilinear features.

    Args:
        observations: the views.
        picture: [3, H, W] in [0, 1] at the network's input size.
        stride: pixels per token.
    Returns:
        the fit, and that of bilinear features through an equally fitted downsampler.
    """
    sampler = TokenSampler(observations, picture, stride, config)
    accelerators = [picture.device.index] if picture.device.type == "cuda" else []
    with torch.random.fork_rng(devices=accelerators), torch.enable_grad():
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)

        def report(step: int, score: float) -> None:
            text = f"explains {score:.1%} of unseen views" if score > -math.inf else ""
            progress("fit", step, config.max_steps, text)

        fit = fit_field(make_field(observations, picture, config), sampler, config, generator, report)
        bilinear = BilinearField(observations.tokens[0])
        baseline = fit_field(bilinear, sampler, config, generator, lambda step, score: None)
    return fit, baseline
