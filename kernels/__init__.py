"""Per-pixel filters for feature upsampling, installed as `featup_kernels`.

- `adaptive_conv` filters every pixel with weights of its own (FeatUp's joint bilateral step);
- `range_taps` makes such weights from the similarity of keys;
- `resampled_conv` is `adaptive_conv` on a source that is resized while it is read;
- `neighbor_mix` mixes neighbours of a low-resolution map at any output size (ReSFU's value step).

Each has a plain twin (`reference`), kernels for the CPU (`cpu`, Numba) and kernels for GPUs (`triton`). `backends()`
says which can run here and, for one that can't, why. Importing needs no GPU and no compiler, and loads neither Numba
nor Triton.
"""

from featup_kernels.adaptive_conv import adaptive_conv
from featup_kernels.dispatch import BackendError, BackendStatus, backends
from featup_kernels.neighbor_mix import neighbor_mix
from featup_kernels.range_taps import range_taps
from featup_kernels.resampled_conv import resampled_conv

__all__ = ["BackendError", "BackendStatus", "adaptive_conv", "backends", "neighbor_mix", "range_taps", "resampled_conv"]
