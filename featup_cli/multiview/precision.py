"""Precision of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["float32", "tf32"]


@contextmanager
def matmul_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """In this context float32 matrix products on a CUDA `device` use this precision; elsewhere nothing changes.

    `tf32` rounds the factors to 10 bits behind the point and sums in float32.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
