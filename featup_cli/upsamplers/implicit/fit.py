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
from functools import cached_property

import torch
from torch import Tensor, nn

from featup_cli.core.progress import Progress
from featup_cli.multiview.downsample import SimpleDownsampler, make_downsampler
from featup_cli.multiview.lookup import sample_grid
from featup_cli.multiview.losses import Uncertainty, gaussian_likelihood, magnitude_variation, squared_error
from featup_cli.multiview.optimize import WeightAverage, make_optimizer, set_learning_rate, warm_cosine
from featup_cli.multiview.precision import matmul_precision
from featup_cli.multiview.views import mirror
from featup_cli.multiview.windows import half_window, lattice_offsets, stratified_offsets, window_positions
from featup_cli.ops.capture import CapturedStep
from featup_cli.upsamplers.implicit.anchor import fit_slopes, mean_of_views
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.model import AnchoredNetwork, BilinearField, FeatureBuffer, ImplicitNetwork
from featup_cli.upsamplers.implicit.observe import Observations

WARMUP_STEPS = 20
CHECKS = 8  # looks at the held-out views during a fit
HELDOUT_TOKENS = 800
HELDOUT_POSITIONS = 25
VARIATION_SAMPLES = 512
DRAWS_KEY = 0x5EED  # sets the draws of a step apart from those of dropout


@dataclass(frozen=True)
class Fit:
    """A field fitted to views, its downsampler, and its held-out score.

    `explained` is the share of the held-out views' variance, over all channels, that the pooled field explains.
    `captured` says whether the steps were replays of a CUDA graph, and `uncaptured_reason` why they were not.
    """

    field: nn.Module
    downsampler: SimpleDownsampler
    uncertainty: Uncertainty | None
    explained: float
    steps: int
    captured: bool
    uncaptured_reason: str


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
        height, width = picture.shape[1:]
        # What a step needs lies on the device before the first one.
        self.views = observations.views.to(picture.device)
        self.half_window = picture.new_tensor(half_window(config.kernel_size, stride, (height, width)))
        self.pixel_steps = picture.new_tensor([[1 / height, 0.0], [0.0, 1 / width]])

    def positions(self, view: Tensor, row: Tensor, col: Tensor, offset: Tensor) -> Tensor:
        """Positions in the picture of offsets [T, P, 2] (-1 to 1, window edge to edge) around tokens [T]: [T, P, 2]."""
        inside = window_positions(row, col, offset, self.grid, self.half_window)
        return self.views.to_image(view[:, None].expand(offset.shape[:2]), inside)

    def colors(self, position: Tensor) -> Tensor:
        """Colours [N, 3] at positions [N, 2]."""
        return sample_grid(self.picture, position)

    def observed(self, view: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Observed tokens [T, K]."""
        return self.observations.tokens[view, :, row, col]

    def draw(
        self, views: range, count: int, generator: torch.Generator, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """View, row and column [count] of random tokens of `views`; `device` is the generator's (the picture's)."""
        ranges, device = ((views.start, views.stop), *((0, n) for n in self.grid)), device or self.picture.device
        view, row, col = (torch.randint(*r, (count,), generator=generator, device=device) for r in ranges)
        return view, row, col

    @cached_property
    def heldout(self) -> tuple[Tensor, Tensor, Tensor]:
        """View, row and column of the tokens that score: the same on every device, as the CPU draws them."""
        views = range(self.observations.fitted, len(self.observations.views))
        generator, device = torch.Generator().manual_seed(0), self.picture.device
        view, row, col = self.draw(views, HELDOUT_TOKENS, generator, generator.device)
        return view.to(device), row.to(device), col.to(device)


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
    anchor = smooth if config.color_features else grid
    return AnchoredNetwork(anchor, slope, mean_color, size, config).to(picture.device)


@torch.no_grad()
def explained_variance(field: nn.Module, downsampler: SimpleDownsampler, sampler: TokenSampler) -> float:
    """Share of the variance of the held-out views' features that the pooled field explains (1 is perfect).

    Positions form a fixed lattice and tokens a fixed draw, so that scores compare. What PCA left out counts as
    unexplained. The host waits for the device once.
    """
    seen = sampler.observations
    view, row, col = sampler.heldout
    lattice = lattice_offsets(HELDOUT_POSITIONS, sampler.picture.device)
    mean = seen.tokens[: seen.fitted].mean((0, 2, 3))
    squares = torch.zeros(2, dtype=torch.float64, device=view.device)  # of the errors, and of all
    for part in torch.arange(HELDOUT_TOKENS, device=view.device).split(128):
        offset = lattice.expand(len(part), -1, -1)
        position = sampler.positions(view[part], row[part], col[part], offset).flatten(0, 1)
        features = field(position, sampler.colors(position)).view(*offset.shape[:2], -1)
        observed = sampler.observed(view[part], row[part], col[part])
        error = (downsampler(features, offset) - observed).square().sum()
        squares += torch.stack((error, (observed - mean).square().sum()))
    error, total, left_out = torch.cat((squares, seen.left_out[seen.fitted :].mean()[None])).tolist()
    left_out = left_out / (sampler.grid[0] * sampler.grid[1]) / seen.scale**2 * HELDOUT_TOKENS
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
        generator: of the picture's device (`draw_generator`); the same one gives the same fit.
        progress: called with the steps done and the last held-out score.
    """
    components = sampler.observations.tokens.shape[1]
    device = sampler.picture.device
    downsampler = make_downsampler(config.downsampler, components, config.kernel_width).to(device)
    uncertainty = Uncertainty(components).to(device) if config.uncertainty else None
    fitted: list[nn.Module] = [field, downsampler] + ([uncertainty] if uncertainty else [])
    parameters = [p for module in fitted for p in module.parameters()]
    optimizer = make_optimizer(
        config.optimizer, [{"params": parameters, "lr": config.learning_rate}], capturable=device.type == "cuda"
    )
    both = nn.ModuleList([field, downsampler])
    average = WeightAverage(both, config.average) if config.average else None

    def averaged() -> tuple[nn.Module, SimpleDownsampler]:
        module = average.module if average is not None else both
        return module[0].eval(), module[1].eval()  # type: ignore[index]

    def take_step() -> None:
        loss = multiview_loss(field, downsampler, uncertainty, sampler, config, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    advance = CapturedStep(take_step, device, [generator], enabled=config.cuda_graph)
    best, best_score, checks_since = copy.deepcopy(averaged()), -math.inf, 0
    interval = max(1, config.max_steps // CHECKS)
    step = 0
    for step in range(1, config.max_steps + 1):
        set_learning_rate(optimizer, config.learning_rate * warm_cosine(step, config.max_steps, WARMUP_STEPS))
        for module in fitted:
            module.train()
        with matmul_precision(config.precision, device):
            advance()
        if average is not None:
            average.update()
        if step % interval == 0 or step == config.max_steps:
            score = explained_variance(*averaged(), sampler)
            if score > best_score:
                best, best_score, checks_since = copy.deepcopy(averaged()), score, 0
            else:
                checks_since += 1
        progress(step, best_score)
        if checks_since >= config.patience:
            break
    return Fit(best[0], best[1], uncertainty, best_score, step, advance.captured, advance.reason)


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
    offset = stratified_offsets(config.tokens, config.positions, generator, device)
    position = sampler.positions(view, row, col, offset).flatten(0, 1)
    features = field(position, sampler.colors(position))
    observed = sampler.observed(view, row, col)
    error = squared_error(downsampler(features.view(*offset.shape[:2], -1), offset), observed)
    loss = gaussian_likelihood(error, uncertainty(observed)) if uncertainty is not None else error.mean()
    if config.tv_weight:
        chosen = torch.randint(len(position), (VARIATION_SAMPLES,), generator=generator, device=device)
        below, right = (mirror(position[chosen] + step) for step in sampler.pixel_steps)
        loss = loss + config.tv_weight * magnitude_variation(
            features[chosen], field(below, sampler.colors(below)), field(right, sampler.colors(right))
        )
    if config.magnitude_weight:
        loss = loss + config.magnitude_weight * features.square().mean()
    return loss


def draw_generator(device: torch.device, seed: int) -> torch.Generator:
    """The generator of a fit's draws on a device; the same seed, device and version give the same draws.

    On a GPU dropout draws from the default generator. Of the same seed it would repeat the numbers of the draws.
    """
    return torch.Generator(device).manual_seed(seed if device.type == "cpu" else seed ^ DRAWS_KEY)


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
        generator = draw_generator(picture.device, seed)

        def report(step: int, score: float) -> None:
            text = f"explains {score:.1%} of unseen views" if score > -math.inf else ""
            progress("fit", step, config.max_steps, text)

        fit = fit_field(make_field(observations, picture, config), sampler, config, generator, report)
        bilinear = BilinearField(observations.tokens[0])
        baseline = fit_field(bilinear, sampler, config, generator, lambda step, score: None)
    return fit, baseline
