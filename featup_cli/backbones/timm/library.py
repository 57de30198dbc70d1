"""The one import of timm: without PyTorch's compiler, which takes longer than all else and isn't needed here.

Torchvision asks the compiler for a function that says whether it can be used, and timm marks functions that it should
skip. Both are put off until they are called. What imports the compiler later finds the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo.utils"


def _call(function: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of the compiler's module."""
    return getattr(import_module(_COMPILER), function)(*arguments, **options)


class _Later(ModuleType):
    """Stands in for the compiler's module during imports. Whoever asks for anything else gets that of the real one."""

    is_compile_supported = staticmethod(partial(_call, "is_compile_supported"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return getattr(import_module(_COMPILER), name)


def _disable_later(disable: Callable[..., Any], function: Any = None, *rest: Any, **options: Any) -> Any:
    """`torch.compiler.disable`, which imports the compiler, called when the function is."""
    if function is None:
        return disable(function, *rest, **options)

    @wraps(function)
    def disabled(*arguments: Any, **keywords: Any) -> Any:
        return disable(function, *rest, **options)(*arguments, **keywords)

    return disabled


@contextmanager
def _without_compiler() -> Iterator[None]:
    """In this context, imports of torchvision and timm don't import the compiler."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    disable, stand_in = torch.compiler.disable, _Later(_COMPILER)
    sys.modules[_COMPILER], torch.compiler.disable = stand_in, partial(_disable_later, disable)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


with _without_compiler():
    import timm as timm
