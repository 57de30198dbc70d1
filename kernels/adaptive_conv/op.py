"""Argument checks and dispatch of `adaptive_conv`."""

from __future__ import annotations

import math

from featup_kernels.adaptive_conv.reference import adaptive_conv_reference
from featup_kernels.dispatch import choose_backend
from torch import Tensor


def adaptive_conv(source: Tensor, taps: Tensor, *, backend: str = "auto") -> Tensor:
    """Filter every pixel with its own k x k weights, shared by the channels.

    out[b, c, y, x] = sum over t of taps[b, t, y, x] * source[b, c, y + t // k, x + t % k]

    Args:
        source: [B, C, H + k - 1, W + k - 1], padded by the caller; padding decides the border.
        taps: [B, k * k, H, W], k odd, used as given: not normalised here.
        backend: "auto" takes the first that can run; a named one raises if it can't.
    Returns:
        [B, C, H, W] in the dtype of `source`.
    Raises:
        ValueError: shapes or dtypes that don't fit; the message says what was expected and what came.
        BackendError: the named backend can't run.

    Source: the joint bilateral filter of FeatUp, equation 4 and table 6.
    """
    if source.ndim != 4 or taps.ndim != 4:
        raise ValueError(f"source and taps must be 4-D, not {list(source.shape)} and {list(taps.shape)}")
    k = math.isqrt(taps.shape[1])
    if k * k != taps.shape[1] or k % 2 == 0:
        raise ValueError(f"taps must have k * k channels with k odd, not {taps.shape[1]}")
    expected = (taps.shape[0], taps.shape[2] + k - 1, taps.shape[3] + k - 1)
    if (source.shape[0], *source.shape[2:]) != expected:
        raise ValueError(
            f"source must be [{expected[0]}, C, {expected[1]}, {expected[2]}] for taps {list(taps.shape)}, "
            f"not {list(source.shape)}"
        )
    if source.dtype != taps.dtype or source.device != taps.device:
        raise ValueError(
            f"source and taps must share dtype and device, not {source.dtype} on {source.device} "
            f"and {taps.dtype} on {taps.device}"
        )
    choose_backend("adaptive_conv", backend)
    return adaptive_conv_reference(source, taps)
