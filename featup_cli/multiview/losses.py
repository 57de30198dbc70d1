"""Terms of the multi-view loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class Uncertainty(nn.Module):
    """Adaptive uncertainty: the logarithm of a token's spread s, linear in its observed features (equation 1)."""

    def __init__(self, components: int) -> None:
        super().__init__()
        self.linear = nn.Linear(components, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, observed: Tensor) -> Tensor:
        """Log spread [...] of tokens [..., K]."""
        return self.linear(observed)[..., 0].clamp(-6, 6)


def squared_error(
    predicted: Tensor, observed: Tensor, channels: Literal["mean", "sum"] = "mean", again: Tensor | None = None
) -> Tensor:
    """Squared error of tokens [T, K], as mean or sum over channels: [T].

    `again` is a second estimate of the same tokens, independent of the first. Its expectation is then free of the
    estimates' variance, E (a - t)(b - t) = (E a - t)^2, and a single token's error may be negative.
    """
    difference = predicted - observed
    square = difference.square() if again is None else difference * (again - observed)
    return square.sum(-1) if channels == "sum" else square.mean(-1)


def gaussian_likelihood(error: Tensor, log_spread: Tensor) -> Tensor:
    """Negative log-likelihood of tokens with squared errors [T] under a predicted spread (equation 1)."""
    return (0.5 * error * torch.exp(-2 * log_spread) + log_spread).mean()


def magnitude_variation(features: Tensor, below: Tensor, right: Tensor) -> Tensor:
    """Total variation of feature magnitudes between pixels [N, K] and their neighbours (equation 8), as a mean."""
    here = features.norm(dim=-1)
    return ((here - below.norm(dim=-1)).square() + (here - right.norm(dim=-1)).square()).mean()


def feature_variation(features: Tensor, below: Tensor, right: Tensor) -> Tensor:
    """Mean absolute difference between pixels [N, K] and their neighbours, channel by channel."""
    return (features - below).abs().mean() + (features - right).abs().mean()
