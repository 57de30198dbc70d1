"""Memory of a network's forward pass, found without running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

TYPICAL_BYTES = 450  # a pixel of the input: the most of ViT, tiny, ResNet-50 and MobileNetV2 in float32
# With attention as a matrix; where even this fits, nothing needs to be found out. Above 512x512 the matrix outgrows the
# pixels: about 4 kB for each at 1024x1024.
_MOST_BYTES, _LARGE, _MOST_BYTES_LARGE = 1_000, 2**18, 4_000
_INPUT_BYTES = 12  # a pixel: the resized picture in floats, which is kept beside the normalised one
_SCRATCH = 50_000_000  # of libraries and threads
_KERNELS = 1.45  # at 1536 to 3072 pixels five networks took 1.0 to 1.43 times what their tensors hold, on a CPU


def estimate_bytes(network: Callable[[Tensor], Tensor], shape: Sequence[int], room: int) -> int:
    """Estimated peak memory of a network's pass, including the preparation of its input.

    Args:
        network, shape: as `peak_bytes`.
        room: available bytes. If even a greedy network would fit, the estimate is a rule of thumb, because the exact
            way takes up to a second and, the first time, 150 MB for PyTorch's imports.
    """
    pixels = shape[0] * shape[2] * shape[3]
    typical = TYPICAL_BYTES * pixels
    if pixels * (_MOST_BYTES if shape[2] * shape[3] <= _LARGE else _MOST_BYTES_LARGE) <= room:
        return typical
    traced = peak_bytes(network, shape)
    return typical if traced is None else int(_KERNELS * traced) + _SCRATCH + _INPUT_BYTES * pixels


def peak_bytes(network: Callable[[Tensor], Tensor], shape: Sequence[int]) -> int | None:
    """Peak bytes of the tensors of one pass, including its input and result but not the parameters.

    All operations run on tensors without data, so shapes are exact and nothing is computed. Scratch memory of kernels
    is not counted.

    Args:
        network: called once, without gradients.
        shape: [B, 3, H, W] of its float32 input.
    Returns:
        Bytes, or None for a network whose control flow depends on values.
    """
    tally = _Tally()
    try:
        with torch.no_grad(), tally, _FusedAttention():
            network(torch.empty(tuple(shape), device="meta"))
    except Exception:  # whatever an operation without data raises; the pass itself will tell what is really wrong
        return None
    return tally.peak


class _FusedAttention(TorchFunctionMode):
    """Attention as kernels on real tensors do it: without a matrix of all pairs, which is made without data."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, value = args[0], args[2]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


class _Tally(TorchDispatchMode):
    """Moves every operation to tensors without data, and adds up what is alive after each."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[StorageWeakRef, int] = {}
        self._twins: dict[int, Tensor] = {}  # of parameters and other real tensors, which cost nothing here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.aten._local_scalar_dense.default:
            return func(*args)
        if "device" in kwargs and any(isinstance(arg, Tensor) for arg in args):
            kwargs["device"] = torch.device("meta")
        result = func(*tree_map_only(Tensor, self._twin, args), **tree_map_only(Tensor, self._twin, kwargs))
        tree_map_only(Tensor, self._note, result)
        return result

    def _twin(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta":
            return tensor
        if id(tensor) not in self._twins:
            # The real one is kept beside its twin, so that no other gets its identity meanwhile.
            twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            twin.real = tensor  # type: ignore[attr-defined]
            self._twins[id(tensor)] = twin
        return self._twins[id(tensor)]

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._alive = {ref: size for ref, size in self._alive.items() if not ref.expired()}
        if tensor.device.type == "meta":
            self._alive[StorageWeakRef(storage)] = storage.nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
