"""Principal components are right, the same in every run, and robust to degenerate tokens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import featup_cli as featup
from featup_cli.core.errors import InputError, ShapeError
from featup_cli.ops.pca import fit_pca, fix_signs


def correlated(count: int, channels: int, rank: int = 8, noise: float = 0.01, seed: int = 0) -> Tensor:
    """Tokens [N, C] with well separated leading variances and a mean far from zero."""
    generator = torch.Generator().manual_seed(seed)
    scales = 2.0 ** -torch.arange(rank)
    factors = torch.randn(count, rank, generator=generator) * scales
    axes = torch.linalg.qr(torch.randn(channels, rank, generator=generator)).Q.T
    return factors @ axes + noise * torch.randn(count, channels, generator=generator) + 3


@pytest.mark.parametrize(("count", "channels"), [(500, 24), (40, 64), (200, 768), (30, 2000), (4000, 100)])
def test_matches_the_singular_value_decomposition(count, channels):
    tokens = correlated(count, channels).double()
    pca = fit_pca(tokens, 6)
    centred = tokens - tokens.mean(0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(pca.mean, tokens.mean(0))
    torch.testing.assert_close(pca.std, singular[:6] / (count - 1) ** 0.5)
    torch.testing.assert_close((pca.basis @ axes[:6].T).abs(), torch.eye(6).double(), atol=1e-6, rtol=0)
    assert pca.total_variance == pytest.approx(float(centred.square().sum()) / (count - 1))
    torch.testing.assert_close(pca.explained_ratio, singular[:6].square() / singular.square().sum())


@pytest.mark.parametrize("channels", [200, 1200])
def test_randomised_and_exact_agree_with_float64(channels):
    tokens = correlated(3000, channels, noise=1e-3)
    pca = fit_pca(tokens, 4)
    _, singular, axes = torch.linalg.svd((tokens - tokens.mean(0)).double(), full_matrices=False)
    torch.testing.assert_close((pca.basis.double() @ axes[:4].T).abs(), torch.eye(4).double(), atol=2e-3, rtol=0)
    torch.testing.assert_close(pca.std.double(), singular[:4] / 2999**0.5, rtol=1e-3, atol=0)
    torch.testing.assert_close(pca.basis @ pca.basis.T, torch.eye(4), atol=1e-5, rtol=0)
    assert float(pca.explained_ratio.sum()) <= 1 + 1e-6


@pytest.mark.parametrize("channels", [16, 1100])
def test_same_result_in_every_run_and_no_trace_in_the_global_generator(channels):
    tokens = correlated(300, channels)
    torch.manual_seed(1)
    first, state = fit_pca(tokens, 3), torch.random.get_rng_state()
    torch.manual_seed(2)
    second = fit_pca(tokens, 3)
    assert first.basis.equal(second.basis)
    torch.manual_seed(1)
    assert state.equal(torch.random.get_rng_state())


@pytest.mark.parametrize("channels", [16, 1100])
def test_signs_do_not_depend_on_the_order_or_the_draw_of_tokens(channels):
    tokens = correlated(1000, channels)
    basis = fit_pca(tokens, 3).basis
    for other in (tokens.flip(0), tokens[::2], tokens + 0.01 * correlated(1000, channels, seed=5)):
        assert ((fit_pca(other, 3).basis * basis).sum(1) > 0.95).all()


def test_sign_convention_is_a_property_of_the_axis():
    # The mirrored cloud has the same axes, so it must get the same signs.
    tokens = correlated(500, 20)
    basis = fit_pca(tokens, 3).basis
    torch.testing.assert_close(fit_pca(-tokens, 3).basis, basis, atol=1e-4, rtol=0)
    assert ((basis * basis.abs()).sum(1) > 0).all()


SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.jpg"))


@pytest.fixture(scope="module")
def backbone() -> featup.Backbone:
    return featup.load_backbone(featup.BackboneConfig("tiny"), torch.device("cpu"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_rounding_flips_no_sign_of_the_features_of_pictures(sample: Path, backbone: featup.Backbone) -> None:
    """Other sums, another decomposition, another precision: axes turn by rounding, and signs stay."""
    features = featup.upsample(sample, backbone=backbone, method="nearest", output_size="1x").lr_features
    tokens = features.flatten(1).T.contiguous()
    basis, generator = fit_pca(tokens, 16).basis.double(), torch.Generator().manual_seed(0)
    noisy = tokens * (1 + 1e-6 * torch.randn(tokens.shape, generator=generator))
    centred = tokens.double() - tokens.double().mean(0)
    others = {
        "noise": fit_pca(noisy, 16).basis,
        "float64": fit_pca(tokens.double(), 16).basis,
        "SVD": fix_signs(torch.linalg.svd(centred, full_matrices=False)[2][:16]),
        "float32 SVD": fix_signs(torch.linalg.svd(centred.float(), full_matrices=False)[2][:16]),
    }
    for name, other in others.items():
        assert ((other.double() * basis).sum(1) > 0.999).all(), name


def test_a_second_fit_points_as_the_first_where_the_loadings_are_balanced() -> None:
    """Turning such an axis by a degree flips its own sign, as a fit of upsampled features does."""
    first = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double())[0]
    first[0] = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -0.99]).double()
    first = fix_signs(torch.linalg.qr(first.T)[0].T)
    turned = torch.eye(8).double()
    turned[0, :2] = torch.tensor([math.cos(0.1), math.sin(0.1)])
    turned[1, :2] = torch.tensor([-math.sin(0.1), math.cos(0.1)])
    for second in (turned @ first, turned.T @ first, -turned @ first):
        assert ((fix_signs(second, first) * first).sum(1) > 0.99).all()
    flipped = [fix_signs(second)[0] @ first[0] < 0 for second in (turned @ first, turned.T @ first)]
    assert any(flipped)


def test_few_tokens_that_span_little_have_an_orthonormal_basis():
    tokens = correlated(50, 80, rank=3, noise=0.0).double()
    basis = fit_pca(tokens, 8).basis
    torch.testing.assert_close(basis @ basis.T, torch.eye(8).double(), atol=1e-9, rtol=0)


def test_project_and_reconstruct_maps_and_tokens():
    features = correlated(6 * 7, 10, rank=3, noise=0).T.reshape(10, 6, 7)
    pca = fit_pca(features.flatten(1).T, 3)
    projected = pca.project(features)
    assert projected.shape == (3, 6, 7)
    torch.testing.assert_close(pca.project(features.flatten(1).T), projected.flatten(1).T)
    torch.testing.assert_close(pca.reconstruct(projected), features)
    torch.testing.assert_close(pca.reconstruct(projected.flatten(1).T), features.flatten(1).T)
    torch.testing.assert_close(projected.flatten(1).std(1), pca.std, rtol=1e-4, atol=0)
    half = pca.project(features.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, projected, atol=1e-2, rtol=0)
    torch.testing.assert_close(pca.reconstruct(projected.half()), features, atol=1e-2, rtol=0)


def test_blocks_change_nothing(monkeypatch):
    tokens = correlated(100, 12)
    whole = fit_pca(tokens, 3)
    monkeypatch.setattr("featup_cli.ops.pca.BLOCK", 7)
    parts = fit_pca(tokens, 3)
    torch.testing.assert_close(parts.basis, whole.basis, atol=1e-4, rtol=0)
    torch.testing.assert_close(parts.project(tokens), whole.project(tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [5, 1100])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_tokens_give_zeros_not_nan(channels, value):
    tokens = torch.full((20, channels), value)
    pca = fit_pca(tokens, 3)
    assert pca.std.equal(torch.zeros(3))
    assert pca.explained_ratio.equal(torch.zeros(3))
    assert pca.total_variance == 0
    assert pca.project(tokens).abs().max() == 0
    assert pca.basis.isfinite().all()


@pytest.mark.parametrize(("count", "channels", "kept"), [(1, 8, 1), (2, 8, 1), (4, 8, 3), (50, 2, 2), (4, 1100, 3)])
def test_fewer_components_than_asked_where_tokens_span_fewer(count, channels, kept):
    pca = fit_pca(torch.randn(count, channels, generator=torch.Generator().manual_seed(0)), 5)
    assert pca.basis.shape == (kept, channels)
    assert pca.basis.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tokens_are_summed_wide(dtype):
    # 40,000 values of 100 overflow a float16 sum.
    tokens = (torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 2, 1]) + 100).to(
        dtype
    )
    pca = fit_pca(tokens, 3)
    torch.testing.assert_close(pca.mean, torch.full((3,), 100.0), atol=0.2, rtol=0)
    torch.testing.assert_close(pca.std, torch.tensor([4.0, 2, 1]), rtol=0.05, atol=0)


def test_bad_tokens_are_refused():
    with pytest.raises(InputError, match="NaN"):
        fit_pca(torch.tensor([[1.0, float("nan")], [1.0, 2.0]]), 1)
    for tokens in (torch.ones(3), torch.ones(0, 3), torch.ones(2, 3, 4)):
        with pytest.raises(ShapeError):
            fit_pca(tokens, 1)
    with pytest.raises(ShapeError):
        fit_pca(torch.randn(5, 3), 0)
    pca = fit_pca(torch.randn(5, 3), 2)
    for wrong in (torch.ones(5, 4), torch.ones(4, 2, 2), torch.ones(3)):
        with pytest.raises(ShapeError):
            pca.project(wrong)
