"""Argument checks that the operations share; each message gives the expected and the actual value."""

from __future__ import annotations

import torch
from torch import Tensor


def check_rank(**tensors: Tensor) -> None:
    """Raise ValueError unless all are 4-D."""
    for name, tensor in tensors.items():
        if tensor.ndim != 4:
            raise ValueError(f"{name} must be 4-D, not {list(tensor.shape)}")


def check_same_kind(**tensors: Tensor) -> None:
    """Raise ValueError unless all are floating point and share dtype and device."""
    kinds = {name: (t.dtype, t.device) for name, t in tensors.items()}
    if len(set(kinds.values())) > 1:
        came = ", ".join(f"{name} {dtype} on {device}" for name, (dtype, device) in kinds.items())
        raise ValueError(f"{' and '.join(kinds)} must share dtype and device, not {came}")
    for name, (dtype, _) in kinds.items():
        if not dtype.is_floating_point:
            raise ValueError(f"{name} must be floating point, not {dtype}")


def window_side(taps: Tensor) -> int:
    """k of taps [B, k * k, H, W]; ValueError unless it is an odd integer."""
    # No square root: torch.compile must see through this when the number of taps is a symbol.
    k = 1
    while k * k < taps.shape[1]:
        k += 2
    if k * k != taps.shape[1]:
        raise ValueError(f"taps must have k * k channels with k odd, not {taps.shape[1]}")
    return k


def autocast(*tensors: Tensor, to: torch.dtype | None = None) -> tuple[Tensor, ...]:
    """Under `torch.autocast`, cast to its dtype (or to `to`); elsewhere the tensors as they are."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = to or torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors)


def zeros_of(shape: tuple[int, ...], *inputs: Tensor) -> Tensor:
    """Result of an operation with an empty input: zeros that still depend on the inputs, for autograd."""
    return inputs[0].new_zeros(shape) + sum(t.sum() * 0 for t in inputs)
