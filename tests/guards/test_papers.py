"""`docs/papers.md` names files and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.guards.sources import ROOT

STATUSES = {"works", "partial", "deviates", "missing"}


def rows(text: str) -> list[list[str]]:
    """The cells of every item."""
    lines = (line for line in text.splitlines() if re.match(r"\| \d", line))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def faults(text: str) -> list[str]:
    """What is wrong with the list: files or tests that don't exist, unknown words, items that prove nothing."""
    found = []
    for number, _, status, work, where, test in rows(text):
        word = re.match(r"\*\*(\w+)\*\*", status)
        if not word or word[1] not in STATUSES or work not in ("", "yes"):
            found.append(f"{number}: {status}, {work}")
        elif word[1] == "works" and not (where and test):
            found.append(f"{number}: works, but no file or no test is named")
        found += [f"{number}: {path}" for path in re.findall(r"`(.+?)`", where) if not (ROOT / path).is_file()]
        found += [f"{number}: {name}" for name in re.findall(r"`(.+?)`", test) if not is_test(name)]
    return found


def is_test(name: str) -> bool:
    """Whether `path::name` is a test."""
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def test_every_file_and_test_of_the_list_exists() -> None:
    text = Path(ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    numbers = [int(row[0]) for row in rows(text)]
    assert sorted(numbers) == [*range(1, 52), *range(87, 112), 118, 119]
    assert faults(text) == []


@pytest.mark.parametrize(
    "row",
    [
        "| 1 | a | **works** | | `featup_cli/none.py` | `tests/guards/test_papers.py::test_faults_are_found` |",
        "| 1 | a | **works** | | `README.md` | `tests/guards/test_papers.py::test_that_is_not_there` |",
        "| 1 | a | **works** | | `README.md` |  |",
        "| 1 | a | **broken** | | `README.md` |  |",
    ],
)
def test_faults_are_found(row: str) -> None:
    assert len(faults(row)) == 1
