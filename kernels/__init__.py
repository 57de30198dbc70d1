"""Per-pixel filters for feature upsampling, installed as `featup_kernels`.

`adaptive_conv` filters every pixel with weights of its own. `backends()` says which implementations exist and, for
one that can't run here, why. Importing needs no GPU and no compiler.
"""

from featup_kernels.adaptive_conv import adaptive_conv
from featup_kernels.dispatch import BackendError, BackendStatus, backends

__all__ = ["BackendError", "BackendStatus", "adaptive_conv", "backends"]
