"""Threads and dtypes of the CPU kernels.

A pool of Python threads runs the compiled kernels, which hold no lock of the interpreter. Numba's own `prange` is not
used: one of its threading layers aborts when two threads call at once, another when the process has forked.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CHUNKS_PER_THREAD = 8  # so that a slow thread does not keep the others waiting at the end
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    """Drop the pool in a forked child, which inherits it without its threads."""
    global _pool, _pool_size
    _pool, _pool_size = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _get_pool(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or size > _pool_size:
        # A smaller pool that another caller still uses finishes its work; its threads end when it is collected.
        _pool, _pool_size = ThreadPoolExecutor(size, "featup_kernels"), size
    return _pool


def _aligned_zeros(size: int, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Memory that begins at a cache line; not from PyTorch, which may start threads of its own to fill it."""
    array = np.zeros(size + 64 // dtype.itemsize, str(dtype).removeprefix("torch."))
    first = -array.ctypes.data % 64 // dtype.itemsize
    return array[first : first + size]


def run(kernel: Callable[..., None], items: int, scratch: tuple[int, ...], dtype: torch.dtype, *arguments: Any) -> None:
    """Call `kernel(start, stop, buffers, *arguments)` for ranges that cover `items`, on PyTorch's number of threads.

    Args:
        kernel: compiled to hold no lock of the interpreter; calls must write to different memory.
        items: how many pieces of work there are.
        scratch: elements of each buffer; every thread gets its own, zeroed.
        dtype: of the buffers.
    """
    threads = min(torch.get_num_threads(), items)
    chunk = max(1, items // (threads * _CHUNKS_PER_THREAD))
    starts = itertools.count(0, chunk)

    def share() -> None:
        buffers = tuple(_aligned_zeros(size, dtype) for size in scratch)
        while (start := next(starts)) < items:
            kernel(start, min(start + chunk, items), buffers, *arguments)

    if threads == 1:
        return share()
    pool = _get_pool(threads - 1)
    helpers = [pool.submit(share) for _ in range(threads - 1)]
    try:
        share()
    finally:
        # A helper that has not begun has nothing left to do; one that runs must end before its memory may go.
        wait([helper for helper in helpers if not helper.cancel()])
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def work_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of the computation: float64 for float64, float32 for all else."""
    return torch.promote_types(tensor.dtype, torch.float32)


def as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The memory of a contiguous tensor on the CPU; half types are copied to float32, as few CPUs compute in them."""
    return tensor.detach().to(work_dtype(tensor)).numpy()


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory for an output, from NumPy: it asks Linux for huge pages, whose first use is much faster."""
    return torch.from_numpy(np.empty(shape, dtype=str(dtype).removeprefix("torch.")))
