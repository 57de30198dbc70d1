"""Optimisers, learning rates and weight averages for the fit and the training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def make_optimizer(
    kind: str, groups: Iterable[dict[str, Any]], weight_decay: float = 0.0, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """NAdam (`nadam`, as the paper's table 7) or AdamW (`adamw`) for groups of `params` and `lr`.

    Args:
        kind: `nadam` or `adamw`.
        groups: parameters and their learning rates.
        weight_decay: decoupled from the gradient.
        capturable: keep all state on the parameters' device, learning rates too, so that a CUDA graph can hold a step.
    """
    optimizer: torch.optim.Optimizer
    if kind == "nadam":
        optimizer = torch.optim.NAdam(
            groups, weight_decay=weight_decay, decoupled_weight_decay=True, capturable=capturable
        )
    else:
        # Fused, it is one kernel; left to itself PyTorch takes another.
        fused = True if capturable else None
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, capturable=capturable, fused=fused)
    if capturable:  # only now, as the constructors compare learning rates, for which the host would wait
        for group in optimizer.param_groups:
            group["lr"] = torch.full((), group["lr"], device=group["params"][0].device)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups; a tensor is written in place, where a CUDA graph reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class WeightAverage:
    """Exponential average of a module's parameters, kept on their device; it starts at those of the first update.

    Unlike `torch.optim.swa_utils.AveragedModel` it counts on the host, so the host never waits for the device.

    Args:
        module: its parameters are averaged; its buffers are assumed constant.
        decay: share of the average that an update keeps.

    Attributes:
        module: a copy of the module with the average as its parameters.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module)
        self._average = [p.detach() for p in self.module.parameters()]
        self._current = [p.detach() for p in module.parameters()]
        self._decay = decay
        self._started = False

    @torch.no_grad()
    def update(self) -> None:
        """Add the module's current parameters to the average."""
        if self._started:
            torch._foreach_lerp_(self._average, self._current, 1 - self._decay)
        else:
            torch._foreach_copy_(self._average, self._current)
        self._started = True


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate in step `step` of 1 to `steps`: a linear start, and a cosine down to zero."""
    return min(1.0, step / max(warmup, 1)) * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps))
