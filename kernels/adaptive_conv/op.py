"""Checks, registration and dispatch of `adaptive_conv`."""

from __future__ import annotations

from featup_kernels.adaptive_conv.reference import adaptive_conv_reference
from featup_kernels.bilinear_op import register_bilinear
from featup_kernels.checks import autocast, check_rank, check_same_kind, window_side, zeros_of
from featup_kernels.dispatch import choose_backend
from torch import Tensor

_adaptive_conv = register_bilinear("adaptive_conv")


def adaptive_conv(source: Tensor, taps: Tensor, *, backend: str = "auto") -> Tensor:
    """Filter every pixel with its own k x k weights, shared by the channels.

    out[b, c, y, x] = sum over t of taps[b, t, y, x] * source[b, c, y + t // k, x + t % k]

    Args:
        source: [B, C, H + k - 1, W + k - 1], padded by the caller; padding decides the border.
        taps: [B, k * k, H, W], k odd, used as given: not normalised here.
        backend: "auto" takes the first that can run; a named one raises if it can't run.
    Returns:
        [B, C, H, W] in the dtype of `source`; half types are summed in float32.
    Raises:
        ValueError: shapes, dtypes or devices that don't fit; the message gives the expected and the actual ones.
        BackendError: the named backend can't run.

    Source: the joint bilateral filter of FeatUp, equation 4 and table 6.
    """
    check_rank(source=source, taps=taps)
    k = window_side(taps)
    expected = (taps.shape[0], taps.shape[2] + k - 1, taps.shape[3] + k - 1)
    if (source.shape[0], *source.shape[2:]) != expected:
        raise ValueError(
            f"source must be [{expected[0]}, C, {expected[1]}, {expected[2]}] for taps {list(taps.shape)}, "
            f"not {list(source.shape)}"
        )
    source, taps = autocast(source, taps)
    check_same_kind(source=source, taps=taps)
    chosen = choose_backend("adaptive_conv", backend, source.device.type, source.dtype)
    if source.numel() == 0 or taps.numel() == 0:
        return zeros_of((taps.shape[0], source.shape[1], *taps.shape[2:]), source, taps)
    if chosen == "reference":
        return adaptive_conv_reference(source, taps)
    return _adaptive_conv(source, taps, chosen)
