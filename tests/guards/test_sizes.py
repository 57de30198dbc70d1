"""Files and functions stay small; ruff watches over parameters and complexity."""

from __future__ import annotations

import ast

from tests.guards.sources import ROOT, functions, modules

FILE_LINES, FUNCTION_LINES = 400, 60
KERNELS = ("triton_impl.py",)
"""GPU kernels: steps of one share a dozen values, and a function of its own would have to take them all. Those for the
CPU take tiles as records, and keep to the limit."""
FORMATS_SKIPPED = 200
"""`# fmt: skip` in all sources: this number may only fall."""


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    described = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if described else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_no_file_is_long() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_no_function_is_long() -> None:
    found = {
        f"{module}:{name}": lines_of(function)
        for module, path in modules().items()
        if path.name not in KERNELS
        for name, function in functions(path)
    }
    assert {name: count for name, count in found.items() if count > FUNCTION_LINES} == {}


def test_fewer_places_are_left_out_of_formatting() -> None:
    folders = ("featup_cli", "kernels", "tests", "benchmarks", "tools")
    count = sum(path.read_text().count("# fmt: " + "skip") for f in folders for path in (ROOT / f).rglob("*.py"))
    assert count <= FORMATS_SKIPPED
