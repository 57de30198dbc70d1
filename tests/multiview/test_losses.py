from __future__ import annotations

import math

import torch

from featup_cli.multiview.losses import Uncertainty, feature_variation, gaussian_likelihood, magnitude_variation


def test_likelihood_equals_the_gaussian_of_the_predicted_spread() -> None:
    uncertainty = Uncertainty(3)
    torch.nn.init.constant_(uncertainty.linear.bias, math.log(2.0))
    observed, squared = torch.zeros(2, 3), torch.tensor([4.0, 8.0])
    expected = torch.tensor([4 / 8 + math.log(2), 8 / 8 + math.log(2)]).mean()
    torch.testing.assert_close(gaussian_likelihood(squared, uncertainty(observed)), expected)


def test_magnitude_variation_ignores_direction() -> None:
    here = torch.tensor([[3.0, 4.0]])
    assert float(magnitude_variation(here, torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, -5.0]]))) == 0
    assert float(magnitude_variation(here, torch.tensor([[6.0, 0.0]]), torch.tensor([[0.0, 7.0]]))) == 1 + 4


def test_feature_variation_counts_every_channel() -> None:
    here = torch.tensor([[3.0, 4.0]])
    assert float(feature_variation(here, here, here)) == 0
    assert float(feature_variation(here, torch.tensor([[5.0, 0.0]]), torch.tensor([[3.0, 5.0]]))) == 3 + 0.5
