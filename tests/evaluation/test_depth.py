"""The depth probe: what is read, what is minimised, what is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featup_cli.core.errors import InputError
from featup_cli.engine.pipeline import Look
from featup_cli.engine.plan import Plan
from featup_cli.evaluation.probe.depth import NOISE, DepthScorer, cell_depth, depth_errors, fit_depth, read_depth
from featup_cli.evaluation.probe.linear import minimise
from featup_cli.evaluation.probe.training import TrainingTokens
from featup_cli.evaluation.run import evaluate
from featup_cli.evaluation.source import FeatureSource, Request
from featup_cli.pictures.read import Picture


@pytest.fixture(scope="module")
def source() -> FeatureSource:
    return FeatureSource(Request(resize="64x96", device="cpu"))


def test_errors_of_a_map_done_by_hand() -> None:
    # Truth 1, 2, 3, 10 and one unknown pixel. The prediction aligns with 0.5 times itself plus 1 for a perfect fit.
    truth = torch.tensor([[1.0, 2.0, 3.0, 10.0, torch.nan]], dtype=torch.float64)
    rmse, delta = depth_errors(torch.tensor([[0.0, 2.0, 4.0, 18.0, 99.0]]), truth)
    assert (rmse, delta) == (pytest.approx(0, abs=1e-9), 1.0)
    # Prediction 0, 0, 1, 1: alignment gives the means 1.5, 1.5, 6.5, 6.5 of each half. Squared errors 0.25, 0.25,
    # 12.25, 12.25; ratios 1.5, 1.33, 2.17, 1.54: none is below 1.25.
    rmse, delta = depth_errors(torch.tensor([[0.0, 0.0, 1.0, 1.0, 5.0]]), truth)
    assert rmse == pytest.approx(2.5)
    assert delta == 0
    # A constant prediction becomes the mean, 4: squared errors 9, 4, 1, 36.
    assert depth_errors(torch.zeros(1, 5), truth)[0] == pytest.approx(12.5**0.5)


def test_depth_below_zero_is_wrong_by_any_factor() -> None:
    truth = torch.tensor([[0.1, 0.1, 2.0, 4.0, 8.0]], dtype=torch.float64)
    fitted = torch.tensor([[-1.0, 1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    _, delta = depth_errors(fitted, truth)
    assert delta == pytest.approx(3 / 5)


def test_scores_are_means_over_pictures() -> None:
    task = DepthScorer(1.0)
    task.use(torch.zeros(2, 1, 3), torch.zeros(2, 1), {})
    rows = {"rmse": np.array([[1.0, 5.0], [4.0, 6.0]]), "delta": np.array([[0.5, 0.1], [0.8, 0.3]])}
    assert task.score(rows, np.array([2, 1])) == pytest.approx({"rmse": 2.0, "delta": 60.0})
    assert task.score(rows, np.array([1, 1]), probe=1) == pytest.approx({"rmse": 5.5, "delta": 20.0})


def test_a_probe_that_reads_depth_scores_its_tokens(source: FeatureSource) -> None:
    # One channel that is the depth of two tokens, copied to 2x2 blocks; one pixel of the second is really deeper.
    picture, plan = Picture(np.zeros((2, 4, 3), dtype=np.uint8)), Plan((2, 4), (1, 2), (2, 4))
    look = Look(picture, plan, torch.tensor([[[[1.0, 3.0]]]]))
    truth = torch.tensor([[1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 3.0, 7.0]], dtype=torch.float64)
    task = DepthScorer(1.0)
    task.use(torch.tensor([[[-3.0]]]), torch.tensor([[7.0]]), {})
    arrays = task.measure(source, look, "nearest", truth)
    # Aligned: 1 and 4. Errors 0 four times, 1 three times, 3 once; 3 and 4 differ by 1.33.
    assert arrays["rmse"].tolist() == pytest.approx([(12 / 8) ** 0.5])
    assert arrays["delta"].tolist() == [0.5]


def tokens_of(pictures: int, noise: float) -> TrainingTokens:
    """Depth that is linear in the features, up to noise and a scale and shift of each picture's own."""
    generator = torch.Generator().manual_seed(3)
    picture = torch.arange(pictures).repeat_interleave(200)
    features = torch.randn(len(picture), 12, generator=generator) * 5 + 20
    linear = features @ torch.randn(12, generator=generator)
    scale, shift = (torch.rand(pictures, generator=generator)[picture] * 9 + 0.2 for _ in range(2))
    depth = scale * linear + shift + noise * torch.randn(len(picture), generator=generator)
    return TrainingTokens(features, depth, torch.ones(len(picture)), picture)


def test_scales_and_shifts_of_the_pictures_are_no_obstacle() -> None:
    tokens = tokens_of(6, noise=0.0)
    probe = fit_depth(tokens)
    assert probe.convergence.reached
    # What remains is the noise that is added to the variance: half of NOISE times the squared length of the weights.
    assert probe.convergence.loss < 2 * NOISE
    predicted = tokens.features @ probe.weight[0] + probe.bias
    for number in range(6):
        pair = torch.stack((predicted, tokens.targets))[:, tokens.picture == number]
        assert float(torch.corrcoef(pair)[0, 1]) > 0.9999
    within = [float(predicted[tokens.picture == number].var()) for number in range(6)]
    assert np.mean(within) == pytest.approx(1, rel=0.05)


def test_random_starts_end_at_the_same_probe() -> None:
    tokens = tokens_of(4, noise=30.0)
    probe = fit_depth(tokens)
    x = (tokens.features - tokens.features.mean(0)) / tokens.features.std(0)
    x, y = (
        torch.cat([v[tokens.picture == n] - v[tokens.picture == n].mean(0) for n in range(4)])
        for v in (x, tokens.targets)
    )
    x, y = x.double(), y.double()

    def loss_of(weight: torch.Tensor) -> torch.Tensor:
        per_picture = []
        for z, truth in zip((x @ weight).split(200), y.split(200), strict=True):
            variance = z.square().mean() + NOISE * weight.square().sum()
            per_picture.append(0.5 * (1 - (z * truth).mean().square() / (variance * truth.square().mean())))
        return torch.stack(per_picture).mean()

    for seed in range(3):
        weight = torch.randn(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        start = float(loss_of(weight))
        end = minimise([weight], lambda weight=weight: loss_of(weight), 500)  # type: ignore[misc]
        assert end.loss < start - 0.01
        assert end.loss == pytest.approx(probe.convergence.loss, rel=1e-5)


def test_cells_average_what_is_known() -> None:
    depth = torch.tensor([[1.0, 3.0, torch.nan, torch.nan], [5.0, torch.nan, torch.nan, torch.nan]])
    cells, share = cell_depth(depth, (1, 2))
    assert cells.tolist() == [[3.0, 0.0]]
    assert share.tolist() == [[0.75, 0.0]]


def test_files_of_all_kinds_hold_the_same_depth(tmp_path: Path) -> None:
    millimetres = np.array([[0, 1500], [65535, 250]], dtype=np.uint16)
    metres = np.where(millimetres == 0, np.nan, millimetres / 1000)
    Image.fromarray(millimetres).save(tmp_path / "d.png")
    np.save(tmp_path / "whole.npy", millimetres)
    np.save(tmp_path / "d.npy", metres)
    np.savez(tmp_path / "named.npz", depth=metres, other=metres + 1)
    np.savez(tmp_path / "only.npz", metres)
    for name in ("d.png", "whole.npy", "d.npy", "named.npz", "only.npz"):
        np.testing.assert_array_equal(read_depth(tmp_path / name, 1000.0).numpy(), metres, err_msg=name)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([[0.0, np.nan]], "no valid pixel"),
        ([[2.0, -1.0]], "negative"),
        ([[2.0, 2.0]], "same depth"),
        ([[[1.0, 2.0]]], r"\[1, 1, 2\]"),
        ([["near", "far"]], "one number for each pixel"),
    ],
    ids=["unknown", "negative", "constant", "three axes", "text"],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_depth_that_can_not_be_scored_is_refused(tmp_path: Path, values: list[object], says: str, suffix: str) -> None:
    path = tmp_path / f"d{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, np.array(values))  # type: ignore[operator]
    with pytest.raises(InputError, match=rf"d\{suffix}: .*{says}"):
        read_depth(path)


def test_archives_without_depth_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", near=np.ones((2, 2)), far=np.ones((2, 2)))
    for name in ("two.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            read_depth(tmp_path / name)


def test_depth_of_synthetic_pictures_is_learned_and_unknown_pixels_do_not_matter(
    source: FeatureSource, depth_data: Path
) -> None:
    run = evaluate("probe-depth", depth_data, methods="bilinear", backbone=source.backbone, resize="64x96", seeds=1)
    assert all(fit["converged"] for fit in run["settings"]["probe"]["fits"])
    result = run["methods"]["bilinear"]
    truth = [read_depth(path) for path in sorted((depth_data / "depth" / "val").iterdir())]
    constant = np.mean([depth_errors(torch.zeros(t.shape), t)[0] for t in truth])
    assert result["scores"]["rmse"] < 0.75 * constant
    assert 0 < result["scores"]["delta"] <= 100
    assert len(result["other_probes"]) == 1
