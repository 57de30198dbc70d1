"""Arguments of public calls, checked against their annotations: one line, and no error from deep inside."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from featup_cli.core.errors import UsageError

Call = TypeVar("Call", bound=Callable[..., Any])

_CLASSES: dict[Any, Any] = {int: Integral, float: Real, Path: (os.PathLike, str)}
"""What stands for a type: numbers of NumPy count too, and text for a path."""
_LISTS: tuple[Any, ...] = (Sequence, Iterable, tuple, list)
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    NoneType: "None",
}


def checked(call: Call) -> Call:
    """A public function, or a class of settings, that refuses arguments of wrong types.

    Annotations say what is right. Text for a `Path` becomes one. A name that is there for type checkers alone is taken
    for `Any`.

    Raises:
        UsageError: by the call, for an argument of another type; the message says what to give.
    """
    function: Any = call.__init__ if isinstance(call, type) else call  # type: ignore[misc]
    signature = inspect.signature(function)

    @wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*given, **named)
        except TypeError:
            return function(*given, **named)  # Python names the function in its message
        bound.arguments.update(check_arguments(call, bound.arguments))
        return function(*bound.args, **bound.kwargs)

    if not isinstance(call, type):
        return run  # type: ignore[return-value]
    call.__init__ = run  # type: ignore[misc]
    return call


def check_arguments(call: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call as it takes them; raises as `checked`."""
    kinds = _kinds(call)
    for name, value in values.items():
        if name in kinds and not _fits(value, kinds[name]):
            raise UsageError(f"{name}: give {_in_words(kinds[name])}, not {_shown(value)}")
    return {name: _with_paths(value, kinds.get(name)) for name, value in values.items()}


@cache
def _kinds(call: Any) -> dict[str, Any]:
    unknown: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(call, localns=unknown)
        except NameError as error:
            unknown[str(error.name)] = Any


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _with_paths(value: Any, kind: Any) -> Any:
    """The value, with paths for text where a path alone is expected."""
    parts = _parts(kind)
    if isinstance(value, str) and Path in parts and str not in parts:
        return Path(value)
    if isinstance(value, list | tuple) and any(get_origin(each) in _LISTS and Path in get_args(each) for each in parts):
        return type(value)(Path(each) if isinstance(each, str) else each for each in value)
    return value


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple and Ellipsis not in inner:
        return _is_list(value) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is Iterable and not _is_list(value):
        return isinstance(value, Iterable) and not _is_text(value)  # its items are gone once they are looked at
    if origin in _LISTS:
        return _is_list(value) and all(_fits(each, inner[0]) for each in value)
    real = _CLASSES.get(kind, origin or kind)
    return real is Any or not isinstance(real, type | tuple) or isinstance(value, real)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes | bytearray | memoryview)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not _is_text(value)


def _in_words(kind: Any) -> str:
    parts = sorted(_parts(kind), key=lambda each: get_origin(each) in _LISTS)
    return " or ".join(_word(each) for each in parts if not (each is str and Path in parts))


def _shown(value: Any) -> str:
    if _is_list(value):
        return f"list of {', '.join(sorted({type(each).__name__ for each in value}))}" if value else "an empty list"
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__


def _word(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin is tuple and Ellipsis not in inner:
        return f"({', '.join(map(_in_words, inner))})"
    if origin in _LISTS:
        return f"a list of which each is {_in_words(inner[0])}"
    if origin is Callable:
        return "a function"
    return _WORDS.get(kind) or f"a {getattr(origin or kind, '__name__', kind)}"
