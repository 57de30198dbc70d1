"""Dilated convolutions in the last stages of a convolutional network: the same weights, a smaller output stride."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from featup_cli.backbones.grid import Grid, run_probe
from featup_cli.backbones.precision import Network
from featup_cli.backbones.timm.library import timm
from featup_cli.backbones.timm.overlap import TimmModel
from featup_cli.backbones.weights import seeded

TOLERANCE = 0.01  # of the largest feature


def can_dilate(model: TimmModel) -> bool:
    """Whether timm may build the model at other output strides; `checked_dilation` finds out."""
    takes = inspect.signature(type(model).__init__).parameters
    return "output_stride" in takes and hasattr(model, "forward_intermediates")


def dilate(reference: str, arguments: Mapping[str, Any], model: TimmModel, stride: int) -> TimmModel:
    """A twin of `model` that shares all its weights and whose last stages dilate instead of striding.

    timm replaces every stride beyond the output stride by a dilation of the convolutions after it (Yu and Koltun,
    2016).

    Args:
        reference, arguments: of `timm.create_model`, that `model` was made of.
        model: one that `can_dilate`.
        stride: pixels per feature of the last stage.
    """
    with seeded():
        twin = timm.create_model(reference, pretrained=False, **{**arguments, "output_stride": stride})
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.eval().requires_grad_(False)


def checked_dilation(
    build: Callable[[int], Network], own: Network, grid: Grid, device: torch.device
) -> Callable[[int], Network | None]:
    """Networks with smaller output strides, each built when it is first asked for; None where there is none.

    There is none if timm refuses, or if some of the positions don't have the network's own features, as where
    downsampling averages or pads (ConvNeXt from 32 to 8): found by trial, not by kind of model.
    """

    @cache
    def network_at(stride: int) -> Network | None:
        factor = grid.stride // stride
        try:
            network = build(stride)
            fine = run_probe(network, grid.probe_size, device)[:, :, ::factor, ::factor]
        except Exception:  # timm says in any way that it can't
            return None
        coarse = run_probe(own, grid.probe_size, device)
        close = fine.shape == coarse.shape and (fine - coarse).abs().max() <= TOLERANCE * coarse.abs().max()
        return network if close else None

    return network_at
