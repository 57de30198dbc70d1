"""Optimisers and learning rates of both the fit and the training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch


def make_optimizer(kind: str, groups: Iterable[dict[str, Any]], weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """NAdam (`nadam`, as the paper's table 7) or AdamW (`adamw`) for groups of `params` and `lr`."""
    if kind == "nadam":
        return torch.optim.NAdam(groups, weight_decay=weight_decay, decoupled_weight_decay=True)
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate in step `step` of 1 to `steps`: a linear start, and a cosine down to zero."""
    return min(1.0, step / max(warmup, 1)) * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps))
