"""Per-pixel filters for feature upsampling, installed as `featup_kernels`.

- `adaptive_conv` filters every pixel with weights of its own (FeatUp's joint bilateral step);
- `range_taps` makes such weights from the similarity of keys;
- `resampled_conv` is `adaptive_conv` on a source that is resized while it is read;
- `neighbor_mix` mixes neighbours of a low-resolution map at any output size (ReSFU's value step).

Each has a plain twin (`reference`), kernels for the CPU (`cpu`, Numba) and kernels for GPUs (`triton`). `backends()`
lists those that can run here and the reasons why others can't. `OPERATIONS` describes all operations.

Functions are loaded on first use and then register their operators. Importing this package needs no GPU and no
compiler, and loads neither PyTorch nor Numba nor Triton.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featup_kernels.registry import OPERATIONS

if TYPE_CHECKING:
    from featup_kernels.adaptive_conv.op import adaptive_conv as adaptive_conv
    from featup_kernels.dispatch import BackendError as BackendError
    from featup_kernels.dispatch import BackendStatus as BackendStatus
    from featup_kernels.dispatch import backends as backends
    from featup_kernels.neighbor_mix.op import neighbor_mix as neighbor_mix
    from featup_kernels.range_taps.op import range_taps as range_taps
    from featup_kernels.resampled_conv.op import resampled_conv as resampled_conv

_HOMES = {name: f"{operation.package}.op" for name, operation in OPERATIONS.items()}
_HOMES |= dict.fromkeys(("BackendError", "BackendStatus", "backends"), "featup_kernels.dispatch")

__all__ = ["OPERATIONS", *_HOMES]

for _name in OPERATIONS:  # their folders, which go by the same names, as the import of the registry has left them here
    globals().pop(_name, None)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'featup_kernels' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
