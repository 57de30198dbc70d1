"""Register operations as PyTorch operators, and find their kernels."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from featup_kernels.registry import OPERATIONS

# `torch.library.custom_op` would do the same, but its operators import the compiler when they are first called, which
# takes seconds and 150 MB.
_LIBRARY = torch.library.Library("featup", "DEF")


def register(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Register an operator featup::NAME for all devices.

    Args:
        schema: NAME(arguments) -> results, in PyTorch's notation; no argument is changed.
        kernel: computes it; its results never share memory with its arguments.
        fake: makes empty results of the right shapes, for tracing.
        backward: gradients of all arguments, for (ctx, gradients of the results); None for an operator without.
        setup_context: saves what `backward` needs, for (ctx, inputs, output).
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"featup::{name}", fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"featup::{name}", backward, setup_context=setup_context, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.featup, name).default
    return operator


def implementation(operation: str, backend: str) -> ModuleType:
    """The module of a backend's kernels, imported on first use: Numba and Triton cost nothing until then."""
    return importlib.import_module(f"{OPERATIONS[operation].package}.{backend}_impl")
