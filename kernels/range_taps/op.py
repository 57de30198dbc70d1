"""Checks, registration and dispatch of `range_taps`."""

from __future__ import annotations

from typing import Any

import torch
from featup_kernels.checks import autocast, check_rank, check_same_kind, zeros_of
from featup_kernels.dispatch import choose_backend
from featup_kernels.range_taps.reference import range_taps_reference, spatial_logits
from featup_kernels.registration import implementation, register
from torch import Tensor


def _forward_kernel(keys: Tensor, temperature: Tensor, logits: Tensor, backend: str) -> Tensor:
    return implementation("range_taps", backend).forward(keys.contiguous(), temperature, logits.contiguous())


def _backward_kernel(
    d_taps: Tensor, taps: Tensor, keys: Tensor, temperature: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    return implementation("range_taps", backend).backward(
        d_taps.contiguous(), taps.contiguous(), keys.contiguous(), temperature
    )


def _forward_fake(keys: Tensor, temperature: Tensor, logits: Tensor, backend: str) -> Tensor:
    side = round(logits.shape[0] ** 0.5)
    return keys.new_empty(keys.shape[0], side * side, keys.shape[2] - side + 1, keys.shape[3] - side + 1)


def _backward_fake(
    d_taps: Tensor, taps: Tensor, keys: Tensor, temperature: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(keys), temperature.new_empty(taps.shape[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    keys, temperature, _, ctx.backend = inputs
    ctx.save_for_backward(keys, temperature, output)


def _gradients(ctx: Any, d_taps: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    keys, temperature, taps = ctx.saved_tensors
    d_keys, d_logits = _range_taps_backward(d_taps, taps, keys, temperature, ctx.backend)
    # Scores are linear in the temperature and of degree two in the keys, so Euler's theorem gives its gradient.
    work = torch.promote_types(keys.dtype, torch.float32)
    d_temperature = (keys.to(work) * d_keys.to(work)).sum() / (2 * temperature.to(work))
    return d_keys, d_temperature.to(temperature.dtype), d_logits, None


def _refuse(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError("range_taps_backward has no derivative: for second derivatives use backend='reference'")


_range_taps_backward = register(
    "range_taps_backward(Tensor d_taps, Tensor taps, Tensor keys, Tensor temperature, str backend) -> (Tensor, Tensor)",
    _backward_kernel, _backward_fake, _refuse,
)  # fmt: skip
_range_taps = register(
    "range_taps(Tensor keys, Tensor temperature, Tensor logits, str backend) -> Tensor",
    _forward_kernel, _forward_fake, _gradients, _save,
)  # fmt: skip


def range_taps(
    keys: Tensor, radius: int, temperature: Tensor | float, spatial: Tensor | float, *, backend: str = "auto"
) -> Tensor:
    """Weights of a joint bilateral filter: similar and near pixels weigh more.

    taps[b, t, y, x] is proportional to exp(temperature * <keys at the centre, keys at neighbour t>)
    times exp(-(dy^2 + dx^2) / (2 * spatial^2)), with dy and dx in half windows (-1 to 1); the taps sum to one.

    Args:
        keys: [B, D, H + 2 * radius, W + 2 * radius], padded by the caller; padding decides the border.
        radius: of the window, which is k = 2 * radius + 1 pixels wide.
        temperature: above 0, a number or a 0-d tensor; the inner products are multiplied by it.
        spatial: standard deviation of the Gaussian in half windows, a number or a 0-d tensor.
        backend: "auto" takes the first that can run; a named one raises if it can't run.
    Returns:
        [B, k * k, H, W], row-major over (dy, dx), in the dtype of `keys`; half types are summed in float32.
    Raises:
        ValueError: shapes, dtypes or devices that don't fit; the message gives the expected and the actual ones.
        BackendError: the named backend can't run.

    Source: FeatUp, equations 4 to 6. The fast backends differentiate once, the reference twice.
    """
    check_rank(keys=keys)
    if radius < 0:
        raise ValueError(f"radius must be at least 0, not {radius}")
    if min(keys.shape[2:]) < 2 * radius + 1:
        raise ValueError(
            f"keys must be [B, D, H + {2 * radius}, W + {2 * radius}] for radius {radius}, not {list(keys.shape)}"
        )
    (keys,) = autocast(keys, to=torch.float32)  # as PyTorch's own softmax
    check_same_kind(keys=keys)
    work = torch.promote_types(keys.dtype, torch.float32)
    temperature, spatial = (torch.as_tensor(v, dtype=work, device=keys.device) for v in (temperature, spatial))
    if temperature.ndim or spatial.ndim:
        raise ValueError(
            f"temperature and spatial must be scalars, not {list(temperature.shape)} and {list(spatial.shape)}"
        )
    logits = spatial_logits(radius, spatial)
    chosen = choose_backend("range_taps", backend, keys.device.type, keys.dtype)
    if keys.numel() == 0:
        size = [n - 2 * radius for n in keys.shape[2:]]
        weights = logits.softmax(0).to(keys.dtype)[:, None, None]  # keys of no channels are all alike
        return zeros_of((keys.shape[0], len(logits), *size), keys) + weights
    if chosen == "reference":
        return range_taps_reference(keys, temperature, logits)
    return _range_taps(keys, temperature, logits, chosen)
