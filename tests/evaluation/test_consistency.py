from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from featup_cli.evaluation.consistency.scorer import ConsistencyScorer, MapField
from featup_cli.evaluation.data import Item
from featup_cli.evaluation.source import FeatureSource, Request
from featup_cli.upsamplers.implicit.config import ImplicitConfig

CONFIG = ImplicitConfig(views=6, heldout_views=2, max_steps=8, tokens=64)


def test_a_map_is_sampled_between_its_pixels() -> None:
    field = MapField(torch.tensor([[[0.0, 2.0], [4.0, 6.0]]]))
    positions = torch.tensor([[0.25, 0.25], [0.25, 0.5], [0.5, 0.5], [0.0, 0.0]])
    assert field(positions, torch.zeros(4, 3))[:, 0].tolist() == [0.0, 1.0, 3.0, 0.0]


def test_features_explain_views_and_a_constant_map_does_not(photo: Path) -> None:
    source = FeatureSource(Request(implicit=CONFIG, resize=64, device="cpu"))
    task = ConsistencyScorer(CONFIG)
    look = source.look(photo)
    views = task.prepare(source, look, Item(photo))
    bilinear = task.measure(source, look, "bilinear", views)
    again = task.measure(source, look, "bilinear", views)
    assert bilinear["explained"] == again["explained"]
    assert 5 < float(bilinear["explained"]) <= 100
    flat = look.lr_feats.mean((2, 3), keepdim=True).expand_as(look.lr_feats)
    constant = task.measure(source, replace(look, lr_feats=flat), "bilinear", views)
    assert float(constant["explained"]) < 5 < float(bilinear["explained"])


def test_views_that_score_are_none_of_those_that_are_fitted(photo: Path) -> None:
    source = FeatureSource(Request(implicit=CONFIG, resize=64, device="cpu"))
    views = ConsistencyScorer(CONFIG).prepare(source, source.look(photo), Item(photo))
    fit, unseen = views.fit.observations, views.unseen.observations
    assert (len(fit.views), len(unseen.views), unseen.fitted) == (8, 10, 8)
    fitted = {tuple(box) for box in fit.views.boxes.tolist()}
    assert not fitted & {tuple(box) for box in unseen.views.boxes[unseen.fitted :].tolist()}


def test_scores_are_means_over_pictures() -> None:
    rows = {"explained": np.array([10.0, 40.0]), "seconds": np.zeros(2)}
    assert ConsistencyScorer(CONFIG).score(rows, np.array([2, 1])) == {"explained": 20.0}
