"""Checks, registration and dispatch of `neighbor_mix`."""

from __future__ import annotations

from featup_kernels.bilinear_op import register_bilinear
from featup_kernels.checks import autocast, check_rank, check_same_kind, window_side, zeros_of
from featup_kernels.dispatch import choose_backend
from featup_kernels.neighbor_mix.reference import neighbor_mix_reference
from torch import Tensor

_neighbor_mix = register_bilinear("neighbor_mix")


def neighbor_mix(
    lr_source: Tensor, taps: Tensor, output_size: tuple[int, int] | None = None, *, backend: str = "auto"
) -> Tensor:
    """Mix k x k neighbours one low-resolution pixel apart on the virtual bilinear upsampling of the source.

    out[b, c, y, x] = sum over dy, dx of taps[b, t, y, x] * bilinear(lr_source[b, c], row(y) + dy, col(x) + dx)

    with row(y) = (y + 0.5) * h / H - 0.5 (align_corners=False), col alike, dy and dx in -(k // 2)..k // 2, t row-major
    over them, and positions clamped to the outer pixel centres. The upsampled source is never materialised: a window
    of k + 1 by k + 1 low-resolution pixels serves each output pixel.

    Args:
        lr_source: [B, C, h, w].
        taps: [B, k * k, H, W], k odd, used as given: not normalised here.
        output_size: (H, W), checked against `taps` if given.
        backend: "auto" takes the first that can run; a named one raises if it can't run.
    Returns:
        [B, C, H, W] in the dtype of `lr_source`; half types are summed in float32.
    Raises:
        ValueError: shapes, dtypes or devices that don't fit; the message gives the expected and the actual ones.
        BackendError: the named backend can't run.

    Source: the fine-grained neighbour selection of ReSFU, section 4.3.
    """
    check_rank(lr_source=lr_source, taps=taps)
    window_side(taps)
    if lr_source.shape[0] != taps.shape[0]:
        raise ValueError(f"lr_source must be [{taps.shape[0]}, C, h, w] as taps, not {list(lr_source.shape)}")
    if min(lr_source.shape[2:]) < 1:
        raise ValueError(f"lr_source must have at least one pixel, not {list(lr_source.shape)}")
    if output_size is not None and tuple(output_size) != tuple(taps.shape[2:]):
        raise ValueError(f"taps must be [B, k * k, {output_size[0]}, {output_size[1]}], not {list(taps.shape)}")
    lr_source, taps = autocast(lr_source, taps)
    check_same_kind(lr_source=lr_source, taps=taps)
    chosen = choose_backend("neighbor_mix", backend, lr_source.device.type, lr_source.dtype)
    if lr_source.numel() == 0 or taps.numel() == 0:
        return zeros_of((taps.shape[0], lr_source.shape[1], *taps.shape[2:]), lr_source, taps)
    if chosen == "reference":
        return neighbor_mix_reference(lr_source, taps)
    return _neighbor_mix(lr_source, taps, chosen)
