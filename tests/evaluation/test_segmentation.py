from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from featup_cli.engine.pipeline import Look
from featup_cli.engine.plan import Plan
from featup_cli.evaluation.data import Classes, find_pairs, load_classes
from featup_cli.evaluation.probe.segmentation import SegmentationScorer
from featup_cli.evaluation.run import Evaluation
from featup_cli.evaluation.source import FeatureSource, Request
from featup_cli.pictures.read import Picture


@pytest.fixture(scope="module")
def source() -> FeatureSource:
    return FeatureSource(Request(resize="64x96", device="cpu"))


def test_the_scores_of_two_pictures_are_those_computed_by_hand(source: FeatureSource) -> None:
    # One feature; the probe says class 1 where it is above 0.5. Tokens are copied to 2x2 blocks.
    task = SegmentationScorer(Classes(("ground", "box"), (9,), (1,)))
    task.use(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[0.5, 0.0]]), {})

    def measure(tokens: list[list[float]], labels: list[list[int]]) -> dict[str, np.ndarray]:
        pixels = np.zeros((2, 4, 3), dtype=np.uint8)
        look = Look(Picture(pixels), Plan((2, 4), (1, 2), (2, 4)), torch.tensor([[tokens]]))
        return task.measure(source, look, "nearest", torch.tensor(labels))

    # Predictions 0 0 1 1 in both rows. True: three grounds right, one wrong; three boxes right, one void.
    first = measure([[0.0, 1.0]], [[0, 0, 1, 1], [0, 0, 0, 1]])
    second = measure([[0.0, 1.0]], [[0, 0, 1, 1], [1, -1, 1, 1]])
    rows = {key: np.stack([first[key], second[key]]) for key in first}
    # ground: first 4 right, 1 called box; second 2 right. box: first 3 right; second 4 right, 1 called ground.
    # IoU of ground (4 + 2) / (5 + 2 + 1) = 6/8, of box (3 + 4) / (3 + 5 + 1) = 7/9; 13 of 15 pixels are right.
    scores = task.score(rows, np.array([1, 1]))
    assert scores["miou"] == pytest.approx(100 * (6 / 8 + 7 / 9) / 2)
    assert scores["thin_miou"] == pytest.approx(100 * 7 / 9)
    assert scores["accuracy"] == pytest.approx(100 * 13 / 15)
    # The first picture alone: ground 4/5, box 3/4. Counted three times it scores the same.
    for counts in ([1, 0], [3, 0]):
        assert task.score(rows, np.array(counts))["miou"] == pytest.approx(100 * (4 / 5 + 3 / 4) / 2)
    assert task.details(rows)["iou"] == pytest.approx({"ground": 75.0, "box": 100 * 7 / 9})


def test_a_probe_finds_the_box_and_its_training_is_reported_and_kept(
    source: FeatureSource, seg_data: Path, tmp_path: Path
) -> None:
    classes = load_classes(seg_data / "classes.json")
    train, val = find_pairs(seg_data, "train"), find_pairs(seg_data, "val")
    evaluation = Evaluation(Request("nearest,bilinear", source.backbone, resize="64x96", cache=tmp_path / "cache"))

    def trained() -> SegmentationScorer:
        scorer = SegmentationScorer(classes)
        scorer.train(evaluation, train, resamples=2)
        return scorer

    task = trained()
    fits = task.settings["probe"]["fits"]
    assert len(fits) == 3
    assert all(fit["converged"] and fit["iterations"] > 1 for fit in fits)
    assert len({fit["loss"] for fit in fits}) == 3
    assert trained().settings == task.settings
    run = evaluation.score(task, val, data="boxes")
    result = run["methods"]["bilinear"]
    assert result["scores"]["miou"] > 70
    assert set(result["iou"]) == {"ground", "box"}
    assert len(result["other_probes"]) == 2
    assert [row["picture"] for row in result["per_picture"]] == ["p3.png", "p4.png"]


def test_training_draws_count_pictures_as_often_as_they_are_drawn(source: FeatureSource, seg_data: Path) -> None:
    # A list that names every picture twice has the same optimum as one that names it once.
    classes = load_classes(seg_data / "classes.json")
    pairs = find_pairs(seg_data, "train")
    once, twice = SegmentationScorer(classes), SegmentationScorer(classes)
    evaluation = Evaluation(Request("nearest", source.backbone, resize="64x96"))
    once.train(evaluation, pairs, resamples=0)
    twice.train(evaluation, [*pairs, *pairs], resamples=0)
    losses = [task.settings["probe"]["fits"][0]["loss"] for task in (once, twice)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
