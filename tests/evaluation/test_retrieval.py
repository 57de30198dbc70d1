"""Points of one picture found in another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featup_cli.core.errors import InputError, UsageError
from featup_cli.engine.pipeline import Look
from featup_cli.engine.plan import Plan
from featup_cli.evaluation.data import Classes, Pair
from featup_cli.evaluation.retrieval import scorer as retrieval
from featup_cli.evaluation.retrieval.matches import find_matches
from featup_cli.evaluation.retrieval.scorer import (
    Match,
    RetrievalScorer,
    cosine_similarity,
    draw_points,
    make_matches,
    matching_share,
)
from featup_cli.evaluation.run import evaluate
from featup_cli.evaluation.source import FeatureSource, Request
from featup_cli.pictures.read import Picture

TWO = Classes(("ground", "box"), (9,), (1,))


@pytest.fixture(scope="module")
def source() -> FeatureSource:
    return FeatureSource(Request(resize="64x96", device="cpu"))


def test_similarity_is_the_cosine_whatever_the_size_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, features = torch.randn(3, 5), torch.randn(5, 4, 7)
    expected = torch.nn.functional.cosine_similarity(queries[:, :, None, None], features[None], dim=1)
    for pixels in (65_536, 6):
        monkeypatch.setattr(retrieval, "PIXELS", pixels)
        torch.testing.assert_close(cosine_similarity(queries, features), expected)


def test_shares_of_a_case_done_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Directions of four pixels: right, up, up, nearly right. The nearly right one is void, so it can't be found.
    features = torch.tensor([[[1.0, 0.0, 0.0, 1.0]], [[0.0, 3.0, 1.0, 0.1]]])
    labels = torch.tensor([[0, 1, 0, -1]])
    queries = torch.tensor([[2.0, 0.2], [0.0, 1.0], [0.1, 1.0]])
    classes = torch.tensor([0, 1, 0])
    # The first finds pixel 0, class 0. The others find pixels 1 and 2 alike, of which one has their class.
    for chunk in (32, 2):
        monkeypatch.setattr(retrieval, "QUERIES", chunk)
        assert matching_share(queries, classes, features, labels).tolist() == [1.0, 0.5, 0.5]


def test_queries_are_drawn_from_classes_of_both_pictures_by_the_seed() -> None:
    labels = torch.zeros(10, 10, dtype=torch.long)
    labels[:, 5:], labels[0, 0], labels[9, :3] = 1, 2, 3
    target = torch.tensor([[0, 1, 3, -1]])
    points = draw_points(labels, target, 4, 6, [0, 1])
    classes = labels.flatten()[points]
    assert classes.bincount(minlength=4).tolist() == [6, 6, 0, 3]
    assert len(points.unique()) == 15
    assert torch.equal(points, draw_points(labels, target, 4, 6, [0, 1]))
    assert not torch.equal(points, draw_points(labels, target, 4, 6, [1, 1]))
    assert len(draw_points(labels, torch.tensor([[-1]]), 4, 6, [0])) == 0


def test_every_picture_is_asked_once_and_searched_once() -> None:
    pairs = [Pair(Path(f"{n}.png"), Path(f"{n}l.png")) for n in range(5)]
    matches = make_matches(pairs)
    assert [Pair(m.picture, m.label) for m in matches] == pairs
    assert sorted(str(m.target.picture) for m in matches) == [f"{n}.png" for n in range(5)]
    assert all(m.picture != m.target.picture for m in matches)
    assert matches[0].files == (*pairs[0].files, *pairs[2].files)
    with pytest.raises(InputError, match=r"0\.png.*two"):
        make_matches(pairs[:1])


def test_the_accuracy_of_two_pictures_is_that_computed_by_hand(source: FeatureSource, tmp_path: Path) -> None:
    # Tokens are copied to 2x2 blocks. Of the first picture, the left token points right and the other one up.
    def look(tokens: list[list[float]]) -> Look:
        lr_feats = torch.tensor(tokens).T.reshape(1, 2, 1, 2)
        picture, plan = Picture(np.zeros((2, 4, 3), dtype=np.uint8)), Plan((2, 4), (1, 2), (2, 4))
        return Look(picture, plan, lr_feats, 0.25)

    def pair(name: str, labels: list[list[int]]) -> Pair:
        Image.fromarray(np.array(labels, dtype=np.uint8)).save(tmp_path / f"{name}.png")
        return Pair(tmp_path / f"{name}.jpg", tmp_path / f"{name}.png")

    query, target = look([[1.0, 0.0], [0.0, 1.0]]), look([[1.0, 0.1], [0.1, 1.0]])
    asked, found = pair("a", [[0, 0, 1, 1], [0, 0, 0, 1]]), pair("b", [[0, 1, 1, 1], [0, 0, 1, 9]])
    match = Match(asked.picture, asked.label, found)
    task = RetrievalScorer(TWO, points=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "look", lambda picture: target)
        prepared = task.prepare(source, query, match)
    assert prepared.classes.tolist() == [0] * 5 + [1] * 3
    arrays = task.measure(source, query, "nearest", prepared)
    # Four grounds find the left block, 3 of 4 ground; the fifth and the boxes the right one, 3 of 3 box.
    assert arrays["queries"].tolist() == [5, 3]
    np.testing.assert_allclose(arrays["hits"], [4 * 0.75, 3])
    assert float(arrays["seconds"]) >= 0.5
    rows = {key: value[None] for key, value in arrays.items()}
    scores = task.score(rows, np.array([1]))
    assert scores == pytest.approx({"class_accuracy": 80.0, "accuracy": 75.0, "thin_accuracy": 100.0})
    assert task.details(rows)["of_class"]["ground"] == {"queries": 5, "accuracy": pytest.approx(60.0)}
    assert task.score(rows, np.array([0])) == {}


def test_boxes_find_boxes_and_the_run_is_repeatable(source: FeatureSource, seg_data: Path) -> None:
    options = {"backbone": source.backbone, "resize": "64x96", "methods": "nearest,bilinear", "split": "train"}

    def run() -> dict[str, dict[str, dict[str, float]]]:
        methods: dict[str, dict[str, dict[str, float]]] = evaluate("retrieval", seg_data, **options)["methods"]
        return methods

    first, second = run(), run()
    assert first["bilinear"]["scores"]["accuracy"] > 70
    for method in first:
        assert first[method]["scores"] == second[method]["scores"]
        assert first[method]["intervals"] == second[method]["intervals"]


def test_a_point_is_found_in_its_own_picture_moved(source: FeatureSource, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    coarse = Image.fromarray(generator.integers(0, 255, (4, 8, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((128, 64), Image.Resampling.BICUBIC))
    # The second picture shows the scene 32 pixels, two tokens, further right.
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, left in zip(paths, (0, 32), strict=True):
        Image.fromarray(pixels[:, left : left + 96]).save(path)
    options = {"backbone": source.backbone, "resize": "64x96", "methods": "nearest,bilinear"}
    found = find_matches(*paths, [(72, 40), (56, 24)], **options)
    assert [(row["method"], row["at"]) for row in found.rows] == [
        ("nearest", [72, 40]), ("bilinear", [72, 40]), ("nearest", [56, 24]), ("bilinear", [56, 24]),
    ]  # fmt: skip
    for row in found.rows:
        assert abs(row["match"][0] - (row["at"][0] - 32)) <= 12
        assert abs(row["match"][1] - row["at"][1]) <= 12
        assert 0.5 < row["similarity"] <= 1 + 1e-5
    one = find_matches(*paths, [(72, 40)], **options)
    assert found.rgb.shape[0] > 1.7 * one.rgb.shape[0]  # the lines below are there once
    assert found.rgb.shape[1] == one.rgb.shape[1]
    with pytest.raises(UsageError, match=r"--at 96,0: lies outside a\.png.*96 x 64"):
        find_matches(*paths, [(96, 0)], **options)
