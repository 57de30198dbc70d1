from __future__ import annotations

import math

import torch

from featup_cli.evaluation.probe.linear import (
    boundary_band,
    class_mixes,
    confusion_matrix,
    fit_probe,
    iou,
    segmentation_scores,
)


def test_scores_of_a_case_done_by_hand() -> None:
    labels = torch.tensor([[0, 0, 1, 1], [2, 2, 9, 9]])
    prediction = torch.tensor([[0, 1, 1, 1], [2, 0, 0, 1]])
    confusion = confusion_matrix(prediction, labels, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    # class 0: 1 of 3 in the union, class 1: 2 of 3, class 2: 1 of 2; class 3 does not occur.
    torch.testing.assert_close(iou(confusion)[:3], torch.tensor([1 / 3, 2 / 3, 1 / 2], dtype=torch.float64))
    assert math.isnan(iou(confusion)[3])
    scores = segmentation_scores(confusion, thin=[2, 3])
    assert abs(scores["miou"] - 50.0) < 1e-6
    assert abs(scores["thin_miou"] - 50.0) < 1e-6
    assert abs(scores["accuracy"] - 100 * 4 / 6) < 1e-4


def test_class_mixes_are_shares_and_void_has_no_weight() -> None:
    labels = torch.tensor([[0, 1, 255, 255], [1, 1, 255, 255]])
    mixes, weight = class_mixes(labels, (1, 2), 2)
    torch.testing.assert_close(mixes[0, 0], torch.tensor([0.25, 0.75]))
    assert weight.tolist() == [[1.0, 0.0]]


def test_probe_converges_to_the_class_frequencies_where_features_say_nothing() -> None:
    tokens = torch.zeros(100, 3)
    mixes = torch.tensor([0.7, 0.2, 0.1]).expand(100, 3)
    probe = fit_probe(tokens, mixes, torch.ones(100))
    torch.testing.assert_close(probe.bias.softmax(0), torch.tensor([0.7, 0.2, 0.1]), atol=1e-3, rtol=0)


def test_probe_separates_what_is_linearly_separable_on_the_raw_scale() -> None:
    tokens = torch.randn(400, 5) * 30 + 100
    truth = (tokens[:, 2] > 100).long()
    probe = fit_probe(tokens, torch.nn.functional.one_hot(truth, 2).float(), torch.ones(400))
    prediction = (tokens @ probe.weight.T + probe.bias).argmax(1)
    assert float((prediction == truth).float().mean()) > 0.97


def test_the_band_lies_around_label_changes() -> None:
    labels = torch.zeros(5, 12)
    labels[:, 6:] = 1
    assert boundary_band(labels, 1)[0].nonzero()[:, 0].tolist() == [5, 6, 7]
    assert not bool(boundary_band(torch.zeros(4, 4), 3).any())
