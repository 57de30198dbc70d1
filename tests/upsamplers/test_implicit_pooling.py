"""How a step pools a field into tokens: whole windows against plain loops, drawn positions against whole windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from featup_cli.multiview.downsample import AttentionDownsampler, SimpleDownsampler, make_downsampler
from featup_cli.multiview.views import draw_views
from featup_cli.multiview.windows import AllWindows, window_positions
from featup_cli.ops.pca import PCA
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.fit import explained_variance
from featup_cli.upsamplers.implicit.loss import magnitude_prior, multiview_loss, pool_draws, pool_views, pool_windows
from featup_cli.upsamplers.implicit.model import FeatureBuffer
from featup_cli.upsamplers.implicit.observe import Observations
from featup_cli.upsamplers.implicit.sampler import TokenSampler

K, SIDE, STRIDE, VIEWS = 4, 32, 8, 8
SIZE, GRID = (SIDE, SIDE), (SIDE // STRIDE, SIDE // STRIDE)
DENSE = ImplicitConfig(
    pooling="dense", views=VIEWS, heldout_views=2, jitters=VIEWS, kernel_size=30.0, tokens=4096, uncertainty=False
)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def toy(config: ImplicitConfig) -> tuple[FeatureBuffer, TokenSampler]:
    """A 32x32 field of noise, and jittered views in which tokens of a third of its spread were seen."""
    count = VIEWS + 2
    views = draw_views(
        count, SIZE, SIZE, max_pad=4, max_zoom=1.8, zoom_share=0.5, flips=True,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    pca = PCA(torch.zeros(K), torch.eye(K), torch.ones(K), torch.ones(K) / K, float(K))
    seen = Observations(views, 0.3 * numbers(1, count, K, *GRID), torch.zeros(count), pca, 1.0, 2)
    return FeatureBuffer(numbers(2, K, *SIZE)), TokenSampler(seen, torch.rand(3, *SIZE), STRIDE, config)


def downsampler_of(kind: str) -> SimpleDownsampler:
    made = make_downsampler(kind, K, 0.5).eval()
    made.bias.data += 0.3 * numbers(3, 15, 15)
    if isinstance(made, AttentionDownsampler):
        made.weight.data += numbers(4, 15, 15)
        made.saliency.weight.data = numbers(5, 1, K)
    return made


def fold(x: float) -> float:
    x %= 2
    return 2 - x if x > 1 else x


def pooled_by_loops(field: Tensor, sampler: TokenSampler, made: SimpleDownsampler, view: int) -> np.ndarray:
    """Equation 2 as printed for every token of a view, in float64: features and their norm, [T, K + 1]."""
    grid = torch.cat((field, field.norm(dim=0, keepdim=True))).double().numpy()
    bias = made.bias.detach().double().numpy()
    top, left, height, width = sampler.observations.views.boxes[view].tolist()
    flipped, tokens = bool(sampler.observations.views.flips[view]), []

    def transformed(y: float, x: float) -> np.ndarray:
        """t(F) at a place of the view, in its pixels: what the picture has there, bilinear between its pixels."""
        y, x = fold(y / SIDE), fold(x / SIDE)
        x = 1 - x if flipped else x
        y, x = (
            fold((first + z * extent) / SIDE) * SIDE - 0.5 for first, z, extent in ((top, y, height), (left, x, width))
        )
        rows, cols = (int(np.floor(y)), y % 1), (int(np.floor(x)), x % 1)
        total = np.zeros(K + 1)
        for i, row in ((0, 1 - rows[1]), (1, rows[1])):
            for j, col in ((0, 1 - cols[1]), (1, cols[1])):
                total += row * col * grid[:, min(max(rows[0] + i, 0), SIDE - 1), min(max(cols[0] + j, 0), SIDE - 1)]
        return total

    for row in range(GRID[0]):
        for col in range(GRID[1]):
            centre = ((row + 0.5) * STRIDE, (col + 0.5) * STRIDE)
            patch = np.stack([transformed(centre[0] + i - 7, centre[1] + j - 7) for i in range(15) for j in range(15)])
            logits = bias.flatten().copy()
            if isinstance(made, AttentionDownsampler):
                saliency = patch[:, :K] @ made.saliency.weight[0].detach().double().numpy()
                logits += made.weight.detach().double().numpy().flatten() * saliency
            weights = np.exp(logits - logits.max())
            tokens.append(weights / weights.sum() @ patch)
    return np.stack(tokens)


@pytest.mark.parametrize("kind", ["simple", "attention"])
def test_whole_windows_equal_plain_loops(kind: str) -> None:
    field, sampler = toy(DENSE)
    made = downsampler_of(kind)
    assert sampler.side == 15
    flips = sampler.observations.views.flips[:VIEWS].tolist()
    chosen = [0, flips.index(True), int(sampler.observations.views.boxes[:VIEWS, 2].argmin())]  # plain, flipped, zoomed
    tokens, magnitudes = pool_views(field(*sampler.pixels), made, sampler, torch.tensor(chosen))
    for view, found, norms in zip(chosen, tokens, magnitudes, strict=True):
        expected = torch.from_numpy(pooled_by_loops(field.grid.detach(), sampler, made, view)).float()
        torch.testing.assert_close(torch.cat((found, norms[:, None]), 1), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "grid", "side"), [((32, 48), (4, 6), 15), ((28, 42), (4, 6), 9), ((32, 32), (2, 2), 20)]
)
def test_windows_are_where_drawn_positions_of_their_pixels_are(
    size: tuple[int, int], grid: tuple[int, int], side: int
) -> None:
    windows = AllWindows(grid, size, side, torch.device("cpu"))
    row, col = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    half = torch.tensor([side / size[0] / 2, side / size[1] / 2])
    offset = windows.offset.expand(row.numel(), -1, -1)
    expected = window_positions(row.flatten(), col.flatten(), offset, grid, half)
    torch.testing.assert_close(windows.lattice[windows.cells], expected, atol=1e-6, rtol=0)


def mean_loss(config: ImplicitConfig, kind: str, draws: int = 60) -> float:
    field, sampler = toy(config)
    made, generator = make_downsampler(kind, K, 0.5).eval(), torch.Generator().manual_seed(6)
    with torch.no_grad():
        losses = [multiview_loss(field, made, None, sampler, config, generator) for _ in range(draws)]
    return float(torch.stack(losses).mean())


def dense_loss(kind: str) -> float:
    """Equation 1 over all tokens of all views, each once."""
    field, sampler = toy(DENSE)
    with torch.no_grad():
        tokens, _ = pool_views(
            field(*sampler.pixels), make_downsampler(kind, K, 0.5).eval(), sampler, torch.arange(VIEWS)
        )
    return float((tokens - sampler.observations.tokens[:VIEWS].flatten(2).transpose(1, 2)).square().mean())


@pytest.mark.parametrize("kind", ["simple", "attention"])
@pytest.mark.parametrize("positions", [9, 16])
def test_two_independent_draws_have_the_dense_loss_on_average(positions: int, kind: str) -> None:
    found = mean_loss(replace(DENSE, pooling="unbiased", positions=positions), kind)
    assert found == pytest.approx(dense_loss(kind), rel=0.01)


def test_one_draw_adds_a_variance_that_falls_with_the_positions() -> None:
    dense, field = dense_loss("simple"), toy(DENSE)[0]
    added = {p: mean_loss(replace(DENSE, pooling="sampled", positions=p), "simple") - dense for p in (9, 16)}
    assert added[9] / added[16] == pytest.approx(16 / 9, rel=0.2)
    for positions, more in added.items():
        assert 0.3 < more * positions / float(field.grid.detach().var()) < 1  # noise, read between its pixels
        assert more > 0.3 * dense


def test_drawn_pixels_are_those_of_the_windows() -> None:
    config = replace(DENSE, pooling="unbiased", positions=9, tokens=5)
    _, sampler = toy(config)
    inside: list[Tensor] = []
    field = lambda position, color: inside.append(position) or torch.zeros(len(position), K)  # type: ignore[func-returns-value]  # noqa: E731
    pool_draws(field, downsampler_of("simple"), sampler, config, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    views, lattice = sampler.views, sampler.windows.lattice
    known = torch.cat([views.to_image(torch.full((len(lattice),), v), lattice) for v in range(VIEWS)])
    assert float((torch.cdist(inside[0], known)).amin(1).max()) < 1e-3
    assert len(inside[0]) == 2 * 5 * 9


def test_errors_and_priors_equal_their_formulas() -> None:
    config = replace(DENSE, magnitude_weight=0.5, magnitude_prior="observed", tv_weight=2.0, channel_error="sum")
    field, sampler = toy(config)
    made = downsampler_of("attention")
    tokens, magnitudes = pool_views(field(*sampler.pixels), made, sampler, torch.arange(VIEWS))
    views = torch.randint(VIEWS, (VIEWS,), generator=torch.Generator().manual_seed(9))
    observed = sampler.observations.tokens[views].flatten(2).transpose(1, 2)
    norms = field.grid.norm(dim=0)
    here = norms[:-1, :-1]
    variation = ((here - norms[1:, :-1]).square() + (here - norms[:-1, 1:]).square()).mean()
    expected = (
        (tokens[views] - observed).square().sum(-1).mean()
        + 0.5 * (magnitudes[views] - observed.norm(dim=-1)).square().mean()
        + 2 * variation
    )
    found = multiview_loss(field, made, None, sampler, config, torch.Generator().manual_seed(9))
    torch.testing.assert_close(found, expected)
    pooled = pool_windows(field, made, sampler, config, torch.Generator().manual_seed(9))
    torch.testing.assert_close(
        magnitude_prior(pooled, replace(config, magnitude_prior="small")), field.grid.square().mean()
    )


def test_the_score_of_whole_windows_equals_its_formula() -> None:
    field, sampler = toy(DENSE)
    made = downsampler_of("attention")
    tokens, _ = pool_views(field(*sampler.pixels), made, sampler, torch.tensor([VIEWS, VIEWS + 1]))
    seen = sampler.observations.tokens
    observed, mean = seen[VIEWS:].flatten(2).transpose(1, 2), seen[:VIEWS].mean((0, 2, 3))
    expected = 1 - (tokens - observed).square().sum() / (observed - mean).square().sum()
    assert explained_variance(field, made, sampler) == pytest.approx(float(expected.detach()), abs=1e-5)
