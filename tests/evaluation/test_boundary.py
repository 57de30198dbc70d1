from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from featup_cli.core.errors import InputError
from featup_cli.evaluation.boundary.scorer import (
    BoundaryScorer,
    count_matches,
    disk_maximum,
    f_measure,
    feature_gradient,
    read_boundaries,
    thin_edges,
)


def test_a_ramp_has_its_slope_everywhere_and_in_its_direction() -> None:
    rows, cols = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    strength, direction = feature_gradient(torch.stack((3 * rows, 4 * rows)), torch.tensor([1.0, 2.0]))
    inside = strength[1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, ((3**2 + 2**2) / 2) ** 0.5))
    torch.testing.assert_close(direction[0].abs()[1:-1, 1:-1], torch.ones_like(inside))
    diagonal = feature_gradient((rows + cols)[None], torch.ones(1))[1][:, 2, 2]
    torch.testing.assert_close(diagonal.abs(), torch.full((2,), 0.5**0.5))


def test_edges_of_a_step_are_one_pixel_wide_along_either_axis() -> None:
    step = torch.zeros(1, 12, 14)
    step[:, :, 6:] = 1
    for features, across in ((step, 1), (step.transpose(1, 2), 0)):
        edges = thin_edges(*feature_gradient(features, torch.ones(1))) > 0
        assert set(edges.sum(across).tolist()) == {1}


def test_the_disk_is_round() -> None:
    point = torch.zeros(9, 9)
    point[4, 4] = 2.0
    wide = disk_maximum(point, 2.0)
    assert int((wide > 0).sum()) == 13
    assert wide[4, 6] == 2
    assert wide[3, 6] == 0


def test_counts_and_scores_of_a_case_done_by_hand() -> None:
    # A diagonal of 1000 pixels: tolerance 7.5. Two annotators draw column 100, one of them column 300 too.
    edges = torch.zeros(600, 800)
    edges[:, 105] = 0.5  # near a boundary
    edges[:, 500] = 0.2  # near none
    drawn = torch.zeros(2, 600, 800, dtype=torch.bool)
    drawn[:, :, 100] = True
    drawn[0, :, 300] = True
    counts = count_matches(edges, drawn, torch.tensor([0.1, 0.3, 0.9]))
    assert counts["predicted"].tolist() == [1200, 600, 0]
    assert counts["right"].tolist() == [600, 600, 0]
    assert counts["found"].tolist() == [1200, 1200, 0]
    assert counts["drawn"] == 1800
    # Precision 1/2, 1; recall 2/3: F = 4/7 and 4/5.
    f = f_measure(counts["right"], counts["predicted"], counts["found"], counts["drawn"])
    np.testing.assert_allclose(f, [4 / 7, 4 / 5, 0])


def test_one_threshold_for_all_pictures_or_one_for_each() -> None:
    # Precision 1 and recall 1 at another threshold in each picture; at the other one nothing is predicted.
    size = (2, 60)
    right = np.zeros(size, dtype=np.int64)
    right[0, 10] = right[1, 20] = 100
    rows = {"right": right, "predicted": right, "found": right, "drawn": np.array([100, 100]), "seconds": np.zeros(2)}
    scores = BoundaryScorer().score(rows, np.array([1, 1]))
    # Of all: precision 1, recall 1/2.
    assert scores["ods"] == pytest.approx(200 / 3)
    assert (scores["precision"], scores["recall"]) == (100.0, 50.0)
    assert scores["ois"] == pytest.approx(100.0)
    assert BoundaryScorer().score(rows, np.array([1, 0]))["ods"] == pytest.approx(100.0)


def test_files_without_boundaries_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "empty.npz", boundaries=np.zeros((2, 4, 5), dtype=np.uint8))
    np.savez(tmp_path / "other.npz", labels=np.ones((2, 4, 5), dtype=np.uint8))
    for name in ("empty.npz", "other.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            read_boundaries(tmp_path / name)
