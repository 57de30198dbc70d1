"""Finds what makes the host wait for a device, on machines that have none.

Tensors on the `meta` device have shapes and no values. So they stand for tensors on a GPU: code that runs on them asks
for no value, and the two modes here catch copies between them and the host, which `meta` would let pass. A wait that
is hidden inside a single operation is not found: only a GPU shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
# A GPU must tell the host a value, or how many values there are.
READS = (
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "equal",
    "_linalg_check_errors",
)
# They make a tensor on the device from numbers of the host; these don't reach the dispatcher as a copy.
UPLOADS = (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor)


class HostTrafficError(AssertionError):
    """The host waits for the device."""


class _Uploads(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        on_device = isinstance(args[-1], Tensor) and args[-1].device == META
        if func in UPLOADS and result.device == META and not on_device:
            raise HostTrafficError(f"{func.__name__} copies numbers of the host to the device")
        return result


class _Reads(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        devices = {t.device for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        if META in devices:
            target = kwargs.get("device")
            if name in READS or (name == "_to_copy" and target is not None and torch.device(target) != META):
                raise HostTrafficError(f"{name} waits for the device")
            indices = args[1] if name in ("index", "index_put_", "index_put") else ()
            if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
                raise HostTrafficError("a mask as an index waits for the number of its members")
        result = func(*args, **kwargs)
        if torch.device("cpu") in devices and any(
            isinstance(t, Tensor) and t.device == META for t in (*tree_leaves(args), *tree_leaves(result))
        ):
            raise HostTrafficError(f"{name} brings a tensor of the host to the device")
        return result


@contextmanager
def no_host_traffic() -> Iterator[None]:
    """Within, raise HostTrafficError for what would make the host wait, were `meta` a GPU."""
    with _Uploads(), _Reads():
        yield
