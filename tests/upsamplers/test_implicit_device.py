"""What the fit asks of a device: nothing that the host would wait for, and the same result for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featup_cli.multiview.downsample import SimpleDownsampler, make_downsampler
from featup_cli.multiview.losses import Uncertainty
from featup_cli.multiview.optimize import WeightAverage
from featup_cli.multiview.views import draw_views
from featup_cli.ops.capture import NO_CUDA
from featup_cli.ops.pca import PCA
from featup_cli.upsamplers.implicit import fit as fitting
from featup_cli.upsamplers.implicit import loss as losses
from featup_cli.upsamplers.implicit import upsampler as upsampling
from featup_cli.upsamplers.implicit.config import PRESETS, ImplicitConfig
from featup_cli.upsamplers.implicit.fit import draw_generator, make_field
from featup_cli.upsamplers.implicit.loss import multiview_loss
from featup_cli.upsamplers.implicit.model import BilinearField
from featup_cli.upsamplers.implicit.observe import Observations
from featup_cli.upsamplers.implicit.sampler import TokenSampler
from featup_cli.upsamplers.implicit.upsampler import ImplicitUpsampler
from tests.upsamplers.device_traffic import META, HostTrafficError, no_host_traffic
from tests.upsamplers.test_implicit import FAST, SIZE, STRIDE, fitted, scene, toy_backbone

K = 12
GRID = (SIZE[0] // STRIDE, SIZE[1] // STRIDE)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def observations(config: ImplicitConfig, device: torch.device) -> Observations:
    """What a backbone might have said: shapes are right, values don't matter."""
    count = config.views + config.heldout_views
    views = draw_views(
        count, SIZE, SIZE, max_pad=10, max_zoom=1.8, zoom_share=0.3, flips=True,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    spread = torch.ones(K, device=device)
    pca = PCA(torch.zeros(K, device=device), torch.eye(K, device=device), spread, spread / K, float(K))
    tokens = torch.randn(count, K, *GRID, device=device)
    return Observations(views, tokens, torch.zeros(count, device=device), pca, 1.0, config.heldout_views)


def sampler_on(config: ImplicitConfig, device: torch.device) -> TokenSampler:
    return TokenSampler(observations(config, device), torch.rand(3, *SIZE, device=device), STRIDE, config)


def modules(sampler: TokenSampler, config: ImplicitConfig) -> tuple[nn.Module, SimpleDownsampler, Uncertainty | None]:
    device = sampler.picture.device
    field = make_field(sampler.observations, sampler.picture, config)
    downsampler = make_downsampler(config.downsampler, K, config.kernel_width).to(device)
    return field, downsampler, Uncertainty(K).to(device) if config.uncertainty else None


CONFIGS = {
    "default": FAST,
    "paper": replace(PRESETS["paper"], views=10, tokens=64),
    "buffer": replace(FAST, representation="buffer", downsampler="simple", uncertainty=False),
    "priors": replace(FAST, tv_weight=0.05, magnitude_weight=0.001, dropout=0.1),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_step_makes_the_host_wait_for_nothing(config: ImplicitConfig) -> None:
    sampler = sampler_on(config, META)
    field, downsampler, uncertainty = modules(sampler, config)
    average = WeightAverage(nn.ModuleList([field, downsampler]), 0.9)
    generator = torch.Generator()
    with no_host_traffic():
        multiview_loss(field, downsampler, uncertainty, sampler, config, generator).backward()
        average.update()
        average.update()
    assert all(p.grad is not None for p in (*field.parameters(), *downsampler.parameters()))


def test_the_bilinear_baseline_makes_the_host_wait_for_nothing_either() -> None:
    sampler = sampler_on(FAST, META)
    field = BilinearField(sampler.observations.tokens[0])
    _, downsampler, uncertainty = modules(sampler, FAST)
    with no_host_traffic():
        multiview_loss(field, downsampler, uncertainty, sampler, FAST, torch.Generator()).backward()


def test_the_closed_form_start_makes_the_host_wait_for_nothing() -> None:
    buffer = replace(FAST, representation="buffer")
    sampler = sampler_on(FAST, META)
    seen, picture = sampler.observations, sampler.picture
    with no_host_traffic():
        make_field(seen, picture, buffer)
        fitting.fit_slopes(torch.zeros(K, 2 * GRID[0], 2 * GRID[1], device=META), picture, GRID)
        torch.stack([seen.views.render(picture, i) for i in range(len(seen.views))])


PLANTED: dict[str, Callable[[Tensor], object]] = {
    "item": lambda loss: loss.item(),
    "float": lambda loss: float(loss.detach()),
    "bool": bool,
    "tolist": lambda loss: loss.tolist(),
    "cpu": lambda loss: loss.cpu(),
    "mask": lambda loss: loss[None][loss[None] > 0],
    "solve": lambda loss: torch.linalg.solve(loss[None, None], loss[None, None]),
    "nonzero": lambda loss: loss[None].nonzero(),
    "new_tensor": lambda loss: loss.new_tensor([1.0, 2.0]),
    "tensor": lambda loss: torch.tensor(1.0, device=loss.device),
    "moved": lambda loss: torch.rand(3).to(loss.device),
    "copied": lambda loss: torch.empty(3, device=loss.device).copy_(torch.rand(3)),
}


@pytest.mark.parametrize("wait", PLANTED.values(), ids=PLANTED.keys())
def test_a_wait_that_is_planted_in_a_step_is_caught(
    wait: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_on(FAST, META)
    parts = modules(sampler, FAST)
    plain = losses.squared_error

    def waiting(predicted: Tensor, observed: Tensor, *rest: object) -> Tensor:
        error = plain(predicted, observed, *rest)
        wait(error.mean())
        return error

    monkeypatch.setattr(losses, "squared_error", waiting)
    with pytest.raises(HostTrafficError), no_host_traffic():
        multiview_loss(*parts, sampler, FAST, torch.Generator())


def test_a_score_is_read_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(FAST, views=6)
    sampler = sampler_on(config, META)
    field, downsampler, _ = modules(sampler, config)
    assert len(sampler.heldout) == 3  # drawn before the first check, and kept
    reads: list[torch.Size] = []

    def read(tensor: Tensor) -> list[float]:
        reads.append(tensor.shape)
        return [1.0, 4.0, 0.0]

    monkeypatch.setattr(Tensor, "tolist", read)
    with no_host_traffic():
        assert fitting.explained_variance(field, downsampler, sampler) == 0.75
    assert reads == [torch.Size([3])]


def test_a_score_equals_its_formula_in_float64() -> None:
    torch.manual_seed(2)
    sampler = sampler_on(FAST, torch.device("cpu"))
    seen = replace(sampler.observations, left_out=torch.rand(FAST.views + FAST.heldout_views), scale=0.7)
    sampler = TokenSampler(seen, sampler.picture, STRIDE, FAST)
    field, downsampler, _ = modules(sampler, FAST)
    view, row, col = sampler.heldout
    offset = fitting.lattice_offsets(fitting.HELDOUT_POSITIONS, view.device).expand(len(view), -1, -1)
    position = sampler.positions(view, row, col, offset).flatten(0, 1)
    with torch.no_grad():
        pooled = downsampler(field(position, sampler.colors(position)).view(*offset.shape[:2], -1), offset).double()
    observed = torch.stack([seen.tokens[v, :, r, c] for v, r, c in zip(view, row, col, strict=True)]).double()
    mean = seen.tokens[: FAST.views].double().mean((0, 2, 3))
    left_out = seen.left_out[FAST.views :].double().mean() / (GRID[0] * GRID[1]) / 0.7**2 * len(view)
    expected = 1 - ((pooled - observed).square().sum() + left_out) / ((observed - mean).square().sum() + left_out)
    assert fitting.explained_variance(field, downsampler, sampler) == pytest.approx(float(expected), abs=1e-6)
    assert int(view.min()) >= FAST.views


def test_the_record_says_whether_steps_were_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(FAST, max_steps=2)
    _, upsampler = fitted(config)
    assert upsampler.details.facts == {"captured": False, "uncaptured_reason": NO_CUDA}
    assert not any("CUDA graph" in note for note in upsampler.details.notes)

    def failed(*args: object) -> object:
        fit, baseline = fitting.fit_implicit(*args)  # type: ignore[arg-type]
        return replace(fit, uncaptured_reason="operation not permitted"), baseline

    monkeypatch.setattr(upsampling, "fit_implicit", failed)
    _, upsampler = fitted(config)
    assert upsampler.details.facts["uncaptured_reason"] == "operation not permitted"
    assert any("operation not permitted" in note for note in upsampler.details.notes)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Within, PyTorch raises RuntimeError for an operation that makes the host wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_step_does_not_synchronise_on_a_gpu(config: ImplicitConfig) -> None:
    device = torch.device("cuda", 0)
    sampler = sampler_on(config, device)
    parts = modules(sampler, config)
    trained = [p for module in parts if module is not None for p in module.parameters()]
    optimizer = fitting.make_optimizer(config.optimizer, [{"params": trained, "lr": 1e-3}], capturable=True)
    average, generator = WeightAverage(nn.ModuleList(parts[:2]), 0.9), draw_generator(device, 0)
    for watched in (nullcontext, no_synchronisation, no_synchronisation):  # the first step makes the optimiser's state
        with watched():
            fitting.set_learning_rate(optimizer, 1e-3)
            loss = multiview_loss(*parts, sampler, config, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            average.update()
    with pytest.raises(RuntimeError, match="synchroniz"), no_synchronisation():
        loss.item()


def on_gpu(config: ImplicitConfig, seed: int = 0) -> tuple[Tensor, ImplicitUpsampler]:
    upsampler = ImplicitUpsampler(gpu_backbone, SIZE, config, seed)
    image = scene().cuda()
    return upsampler(image, gpu_backbone(image), SIZE), upsampler


def gpu_backbone(image: Tensor) -> Tensor:
    return toy_backbone(image.cpu()).cuda()


@needs_gpu
@pytest.mark.parametrize("changes", [{}, {"optimizer": "nadam", "dropout": 0.1, "tv_weight": 0.05}], ids=str)
def test_on_a_gpu_the_same_seed_gives_the_same_fit(changes: dict[str, object]) -> None:
    config = replace(FAST, **changes)  # type: ignore[arg-type]
    first, upsampler = on_gpu(config)
    assert upsampler.details.facts == {"captured": True, "uncaptured_reason": ""}
    assert torch.equal(first, on_gpu(config)[0])
    uncaptured = on_gpu(replace(config, cuda_graph=False))[1].details.scores["explained_variance"]
    assert uncaptured == pytest.approx(upsampler.details.scores["explained_variance"], abs=2e-3)
    assert not torch.equal(first, on_gpu(config, seed=1)[0])


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_fit_on_a_gpu_explains_as_much_as_one_on_a_cpu(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    _, gpu = on_gpu(replace(FAST, precision=precision))  # type: ignore[arg-type]
    assert torch.get_float32_matmul_precision() == before
    _, cpu = fitted(FAST)
    name = "explained_variance"
    assert gpu.details.scores[name] == pytest.approx(cpu.details.scores[name], abs=0.02)
