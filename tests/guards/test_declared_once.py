"""A name of a record stands as text in its own folder and nowhere else: all other code asks the record."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from featup_cli.core.references import resolve
from featup_cli.upsamplers.registry import METHODS
from tests.guards.sources import modules

TORCH_MODES = {"nearest", "bilinear", "bicubic"}
"""PyTorch's names of interpolations too: as an argument `mode` or `resize`, or compared with one, they mean those."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and value of every text in a file that is neither a docstring nor a mode of PyTorch's."""
    tree = ast.parse(path.read_text())
    passed = {id(part) for node in ast.walk(tree) for part in _passed_over(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node.lineno, node.value


def _passed_over(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Expr):
        yield node.value
    if isinstance(node, ast.keyword) and node.arg in ("mode", "resize"):
        yield from ast.walk(node.value)
    if isinstance(node, ast.Compare) and ast.unparse(node.left).rpartition(".")[2] in ("mode", "resize"):
        yield from (part for side in node.comparators for part in ast.walk(side))


def test_names_of_methods_stand_in_their_own_folders() -> None:
    homes = {name: _home(method.build if not method.network else method.network) for name, method in METHODS.items()}
    found = []
    for module, path in modules().items():
        found += [
            f"{module}:{line} {text!r}"
            for line, text in texts(path)
            if text in homes and not module.startswith(homes[text]) and text not in TORCH_MODES
        ]
    assert found == []


def _home(reference: str) -> str:
    assert resolve(reference)
    return reference.partition(":")[0].rpartition(".")[0]
