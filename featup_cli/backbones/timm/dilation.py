"""Dilated convolutions in the last stages of a convolutional network: the same weights, a smaller output stride."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from featup_cli.backbones.timm.library import timm
from featup_cli.backbones.timm.overlap import TimmModel
from featup_cli.backbones.weights import seeded


def can_dilate(model: TimmModel) -> bool:
    """Whether `dilate` works for the model: timm builds its kind at several output strides."""
    takes = inspect.signature(type(model).__init__).parameters
    return "output_stride" in takes and hasattr(model, "forward_intermediates")


def dilate(reference: str, arguments: Mapping[str, Any], model: TimmModel, stride: int) -> TimmModel:
    """A twin of `model` that shares all its weights and whose last stages dilate instead of striding.

    timm replaces every stride beyond the output stride by a dilation of the convolutions after it (Yu and Koltun,
    2016), so that every second position (or fourth, ...) has the features of the model itself.

    Args:
        reference, arguments: of `timm.create_model`, that `model` was made of.
        model: one that `can_dilate`.
        stride: pixels per feature of the last stage.
    """
    with seeded():
        twin = timm.create_model(reference, pretrained=False, **{**arguments, "output_stride": stride})
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.eval().requires_grad_(False)
