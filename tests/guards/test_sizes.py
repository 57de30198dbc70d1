"""Files, functions and lists of parameters stay small."""

from __future__ import annotations

import ast

from tests.guards.sources import ROOT, functions, modules

FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 8
KERNELS = ("triton_impl.py", "triton_common.py", "cpu_impl.py", "tiles.py")
"""Compiled kernels: they can't take records, and a call is not free."""
CALLS = {
    "featup_cli.upsamplers.registry:make_upsampler",
    "featup_cli.engine.pipeline:upsample",
    "featup_cli.batch.run:upsample_many",
    "featup_cli.benchmarking.run:benchmark",
}
"""Public calls that mirror a command: keywords are what their users want."""
FORMATS_SKIPPED = 300
"""`# fmt: skip` in all sources: this number may only fall."""


def test_no_file_is_long() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_no_function_is_long_or_takes_many_parameters() -> None:
    found = {}
    for module, path in modules().items():
        if path.name in KERNELS:
            continue
        for name, function in functions(path):
            where, length = f"{module}:{name}", (function.end_lineno or 0) - function.lineno + 1
            if where not in CALLS and (length > FUNCTION_LINES or parameters(function) > PARAMETERS):
                found[where] = (length, parameters(function))
    assert found == {}


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in every)


def test_every_exception_is_needed() -> None:
    known = {f"{module}:{name}" for module, path in modules().items() for name, _ in functions(path)}
    assert known >= CALLS


def test_fewer_places_are_left_out_of_formatting() -> None:
    folders = ("featup_cli", "kernels", "tests", "benchmarks", "tools")
    count = sum(path.read_text().count("# fmt: " + "skip") for f in folders for path in (ROOT / f).rglob("*.py"))
    assert count <= FORMATS_SKIPPED
