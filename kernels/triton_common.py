"""Helpers that the Triton kernels of several operations share.

The kernels are written thread by thread: their tensors are 1-D, one element a thread, so that neighbouring threads read
neighbouring pixels whatever layout the compiler prefers, and what a thread keeps several of is a tuple.

They work on columns: `ROWS` pixels, one below the other, that one thread computes together because their windows
overlap. The columns of all images are numbered row-major over (image, group of rows, x) and a program takes `BLOCK` of
them, so that neither narrow nor small images leave threads idle. It may have several parts of `BLOCK` threads each:
they take the same columns and different channels.
"""

# Triton's dialect: constants in capitals, other arguments without annotations, tuples that grow by "+".
# ruff: noqa: N803, RUF005
# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def columns_of_program(index, columns, height, width, ROWS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr = 1):
    """For each thread of a program: image (int64), first row and x of its column, whether it exists, and its part."""
    thread = tl.arange(0, BLOCK * PARTS)
    column = tl.cast(index, columns.dtype) * BLOCK + thread % BLOCK
    groups = (height + ROWS - 1) // ROWS
    x = column % width
    group = column // width
    exists = (column >= 0) & (column < columns)  # the last block may pass the greatest number of 32 bits
    return (group // groups).to(tl.int64), (group % groups) * ROWS, x, exists, thread // BLOCK


@triton.jit
def zeros(COUNT: tl.constexpr, THREADS: tl.constexpr, ACC: tl.constexpr):
    """A tuple of sums that start at zero."""
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros((THREADS,), ACC),)
    return sums


@triton.jit
def sum_of_parts(value, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """The sum over the parts of a program: [BLOCK]."""
    return tl.sum(tl.reshape(value, (PARTS, BLOCK)), 0)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The type in which sums are kept: float32, or float64 for float64."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def on_device(tensor: Tensor) -> AbstractContextManager[None]:
    """Make the tensor's device current: Triton launches there. The interpreter's CPU tensors need nothing."""
    if tensor.device.type == "cpu":
        return nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)
