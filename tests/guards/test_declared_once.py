"""A name of a record stands as text where the record is declared and nowhere else: all other code asks the record."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from featup_kernels.registry import OPERATIONS

from featup_cli.core.references import resolve
from featup_cli.evaluation.registry import TASKS
from featup_cli.exporting.registry import FORMATS
from featup_cli.upsamplers.registry import METHODS
from tests.guards.sources import PACKAGES, ROOT, modules

OTHERS_WORDS = ("mode", "resize", "framework")
"""Arguments and attributes that hold names of other programs: PyTorch's of interpolations, safetensors' of frameworks,
whose `pt` is an export format too."""
TORCH_MODES = {"nearest", "bilinear", "bicubic"}
"""PyTorch's names of interpolations, which functions of ours take by position too."""


def _home(reference: str) -> str:
    """The package of a function or class `module:name`."""
    assert resolve(reference)
    return reference.partition(":")[0].rpartition(".")[0]


HOMES = {
    "method": {name: _home(method.network or method.build) for name, method in METHODS.items()},
    "operation": {name: operation.package for name, operation in OPERATIONS.items()},
    "task": {name: _home(task.run) for name, task in TASKS.items()},
    "format": dict.fromkeys(FORMATS, "featup_cli.exporting.registry"),
}
"""Where names of each kind may stand: a package, or the module of the records."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and value of every text in a file that is neither a docstring nor a word of another program."""
    tree = ast.parse(path.read_text())
    passed = {id(part) for node in ast.walk(tree) for part in _passed_over(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node.lineno, node.value


def _passed_over(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Expr):
        yield node.value
    if isinstance(node, ast.keyword) and node.arg in OTHERS_WORDS:
        yield from ast.walk(node.value)
    if isinstance(node, ast.Compare) and ast.unparse(node.left).rpartition(".")[2] in OTHERS_WORDS:
        yield from (part for side in node.comparators for part in ast.walk(side))


def misplaced(homes: dict[str, str], root: Path = ROOT) -> list[str]:
    """Every text that is a name of these, outside its home."""
    return [
        f"{module}:{line} {text!r}"
        for module, path in modules(root).items()
        for line, text in texts(path)
        if text in homes and text not in TORCH_MODES and not f"{module}.".startswith(f"{homes[text]}.")
    ]


@pytest.mark.parametrize("kind", HOMES)
def test_names_stand_where_their_records_are(kind: str) -> None:
    assert misplaced(HOMES[kind]) == []


@pytest.mark.parametrize("kind", HOMES)
def test_a_planted_name_is_seen(kind: str, tmp_path: Path) -> None:
    name, home = next((name, home) for name, home in HOMES[kind].items() if name not in TORCH_MODES)
    folders = {package: folder for folder, package in PACKAGES.items()}
    package, _, inside = home.partition(".")
    at_home = tmp_path / folders[package] / f"{inside.replace('.', '/')}.py"
    elsewhere = tmp_path / "featup_cli" / "cli" / "planted.py"
    for path in (at_home, elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""{name}"""\n\nGIVEN = call("{name}", mode="{name}", default="{name}s")\n')
    assert misplaced(HOMES[kind], tmp_path) == [f"featup_cli.cli.planted:3 {name!r}"]
