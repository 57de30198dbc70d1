"""Average Drop and Average Increase of class activation maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.timm.classifier import Classifier, load_classifier
from featup_cli.core.errors import InputError
from featup_cli.evaluation.cam.scorer import CamScorer, gaussian_blur, keep_recognised, keep_top, read_targets
from featup_cli.evaluation.data import Item
from featup_cli.evaluation.run import Evaluation
from featup_cli.evaluation.source import FeatureSource, Request

CONFIG = BackboneConfig("test_efficientnet", random_weights=True)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(CONFIG, torch.device("cpu"))


@pytest.fixture
def source(classifier: Classifier) -> FeatureSource:
    return FeatureSource(Request(resize=96), classifier.backbone)


def test_scores_of_three_pictures_are_those_computed_by_hand(classifier: Classifier) -> None:
    rows = {"confidence": np.array([0.8, 0.5, 0.2]), "masked": np.array([0.6, 0.5, 0.4])}
    task = CamScorer(classifier, blur=0.05)
    # Drops of 25, 0 and 0 percent; only the third rises: an equal confidence is no increase.
    scores = task.score(rows, np.array([1, 1, 1]))
    assert scores == pytest.approx({"average_drop": 25 / 3, "average_increase": 100 / 3})
    assert task.score(rows, np.array([1, 0, 3])) == pytest.approx({"average_drop": 25 / 4, "average_increase": 75})


def test_the_top_half_is_kept_as_it_is_and_the_rest_taken_from_the_blurred_copy() -> None:
    image, blurred = torch.rand(3, 2, 4), torch.rand(3, 2, 4)
    cam = torch.tensor([[5.0, -1.0, 4.0, 0.0], [3.0, -2.0, -3.0, 2.0]])
    masked = keep_top(cam, image, blurred)
    kept = torch.tensor([[True, False, True, False], [True, False, False, True]])
    torch.testing.assert_close(masked, torch.where(kept, image, blurred))


def test_exactly_half_is_kept_of_a_map_of_blocks() -> None:
    cam = torch.tensor([[1.0, 2.0, 3.0]]).repeat_interleave(5, 0).repeat_interleave(4, 1)
    masked = keep_top(cam, torch.ones(3, 5, 12), torch.zeros(3, 5, 12))
    assert int(masked[0].sum()) == 30
    assert bool(masked[0, :, 8:].all())
    assert int(masked[0, :, :4].sum()) == 0


def test_the_blur_keeps_constants_and_spreads_a_point_by_sigma() -> None:
    torch.testing.assert_close(gaussian_blur(torch.full((3, 9, 20), 0.4), 3.0), torch.full((3, 9, 20), 0.4))
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1
    spread = gaussian_blur(point, 2.0)[0]
    offsets = torch.arange(41.0) - 20
    assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
    assert float((spread.sum(1) * offsets.square()).sum()) == pytest.approx(4, rel=0.01)


def test_one_picture_is_masked_by_the_map_of_its_class(
    photo: Path, classifier: Classifier, source: FeatureSource
) -> None:
    task = CamScorer(classifier, blur=0.1)
    look = source.look(photo)
    prepared = task.prepare(source, look, Item(photo))
    image = look.picture.resized(look.plan.network)
    probabilities = classifier.probabilities(image[None])[0]
    assert prepared.target == int(probabilities.argmax())
    assert prepared.confidence == pytest.approx(float(probabilities.max()))
    arrays = task.measure(source, look, "bilinear", prepared)
    features, _ = source.features("bilinear", look, look.plan.network)
    cam = torch.einsum("c,chw->hw", classifier.weight[prepared.target], features)
    masked = keep_top(cam, image, gaussian_blur(image, 0.1 * min(look.plan.network)))
    assert float(arrays["masked"]) == pytest.approx(
        float(classifier.probabilities(masked[None])[0, prepared.target]), rel=1e-4
    )
    other = CamScorer(classifier, blur=0.1, target=7).prepare(source, look, Item(photo))
    assert (other.target, other.confidence) == (7, pytest.approx(float(probabilities[7])))


def test_only_recognised_pictures_are_kept(photo: Path, classifier: Classifier) -> None:
    evaluation = Evaluation(Request("nearest", resize=96), classifier.backbone)
    look = evaluation.source.look(photo)
    predicted = int(classifier.probabilities(look.picture.resized(look.plan.network)[None]).argmax())
    items = [Item(photo)]
    listed = photo.with_name("list.txt")

    def kept(line: str) -> list[Item]:
        listed.write_text(line)
        return keep_recognised(evaluation, classifier, items, read_targets(listed))

    assert kept(f"{photo.name} {predicted}\n") == items
    with pytest.raises(InputError, match="no picture is classified"):
        kept(f"{photo.name} {(predicted + 1) % 1000}")
    with pytest.raises(InputError, match=f"{photo.name}: is not in the list"):
        kept("other.jpg 3")
    with pytest.raises(InputError, match=r"list\.txt:2"):
        kept(f"{photo.name} 1\n{photo.name} tench")
