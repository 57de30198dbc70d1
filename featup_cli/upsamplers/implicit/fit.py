"""Fit a field to the views of one picture."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featup_cli.core.progress import Progress
from featup_cli.multiview.downsample import SimpleDownsampler, make_downsampler
from featup_cli.multiview.losses import Uncertainty
from featup_cli.multiview.optimize import WeightAverage, make_optimizer, set_learning_rate, warm_cosine
from featup_cli.multiview.precision import matmul_precision
from featup_cli.multiview.windows import lattice_offsets
from featup_cli.ops.capture import CapturedStep
from featup_cli.upsamplers.implicit.anchor import fit_slopes, mean_of_views
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.loss import multiview_loss, pool_views
from featup_cli.upsamplers.implicit.model import AnchoredNetwork, BilinearField, FeatureBuffer, ImplicitNetwork
from featup_cli.upsamplers.implicit.observe import Observations
from featup_cli.upsamplers.implicit.sampler import HELDOUT_TOKENS, TokenSampler

WARMUP_STEPS = 20
CHECKS = 8  # looks at the held-out views during a fit
HELDOUT_POSITIONS = 25
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

    Tokens and positions are the same in each call, so that scores compare. What PCA left out counts as unexplained.
    The host waits for the device once.
    """
    seen = sampler.observations
    mean = seen.tokens[: seen.fitted].mean((0, 2, 3))
    squares = torch.zeros(2, dtype=torch.float64, device=mean.device)  # of the errors, and of all
    count, pool = 0, drawn_tokens if sampler.config.pooling != "dense" else whole_views
    for tokens, observed in pool(field, downsampler, sampler):
        count += len(tokens)
        error = (tokens - observed).square().sum()
        squares += torch.stack((error, (observed - mean).square().sum()))
    error, total, left_out = torch.cat((squares, seen.left_out[seen.fitted :].mean()[None])).tolist()
    left_out = left_out / (sampler.grid[0] * sampler.grid[1]) / seen.scale**2 * count
    return 1 - (error + left_out) / max(total + left_out, 1e-12)


def drawn_tokens(
    field: nn.Module, downsampler: SimpleDownsampler, sampler: TokenSampler
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pooled and observed tokens [T, K] of the held-out views: a fixed draw, pooled over a fixed lattice."""
    view, row, col = sampler.heldout
    lattice = lattice_offsets(HELDOUT_POSITIONS, sampler.picture.device)
    for part in torch.arange(HELDOUT_TOKENS, device=view.device).split(128):
        offset = lattice.expand(len(part), -1, -1)
        position = sampler.positions(view[part], row[part], col[part], offset).flatten(0, 1)
        features = field(position, sampler.colors(position)).view(*offset.shape[:2], -1)
        yield downsampler(features, offset), sampler.observed(view[part], row[part], col[part])


def whole_views(
    field: nn.Module, downsampler: SimpleDownsampler, sampler: TokenSampler
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of all tokens of the held-out views, pooled over whole windows."""
    seen, features = sampler.observations, field(*sampler.pixels)
    for index in torch.arange(seen.fitted, len(seen.views), device=features.device).split(1):
        tokens, _ = pool_views(features, downsampler, sampler, index)
        yield tokens[0], seen.tokens[index][0].flatten(1).T


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
    interval, keep_last = max(1, config.max_steps // CHECKS), config.keep == "last"
    step = 0
    for step in range(1, config.max_steps + 1):
        share = warm_cosine(step, config.max_steps, WARMUP_STEPS) if config.schedule == "cosine" else 1.0
        set_learning_rate(optimizer, config.learning_rate * share)
        for module in fitted:
            module.train()
        with matmul_precision(config.precision, device):
            advance()
        if average is not None:
            average.update()
        if step == config.max_steps or (step % interval == 0 and not keep_last):
            score = explained_variance(*averaged(), sampler)
            if score > best_score or keep_last:
                best, best_score, checks_since = copy.deepcopy(averaged()), score, 0
            else:
                checks_since += 1
        progress(step, best_score)
        if checks_since >= config.patience:
            break
    return Fit(best[0], best[1], uncertainty, best_score, step, advance.captured, advance.reason)


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
