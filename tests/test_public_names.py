"""The public names: there, never hidden by a module, and with examples that run."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import featup_cli


@pytest.mark.parametrize("name", featup_cli.__all__)
def test_a_public_name_is_no_module(name: str) -> None:
    # Importing a module sets it as an attribute of its package, where it would take the place of a function.
    assert name not in {module.name for module in pkgutil.iter_modules(featup_cli.__path__)}
    assert not isinstance(getattr(featup_cli, name), ModuleType)


@pytest.mark.parametrize("name", featup_cli.__all__)
def test_examples_give_what_they_say(name: str) -> None:
    thing = getattr(featup_cli, name)
    assert not inspect.isfunction(thing) or "Example:" in str(thing.__doc__)
    assert thing.__doc__
    if getattr(thing, "__name__", "") != name:
        return  # no function or class, or a second name of one
    for example in doctest.DocTestFinder(recurse=False).find(thing, name, globs={}):
        assert doctest.DocTestRunner().run(example).failed == 0


def test_all_ways_to_list_the_names_agree() -> None:
    imported: dict[str, object] = {}
    exec("from featup_cli import *", imported)
    assert set(dir(featup_cli)) == set(featup_cli.__all__) == imported.keys() - {"__builtins__"}
    assert len(set(featup_cli.__all__)) == len(featup_cli.__all__)


def test_help_shows_how_to_start() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert featup_cli.__doc__
    lines = [line.strip() for line in featup_cli.__doc__.splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    assert [line.split(" #")[0].strip() for line in lines if line.split(" #")[0].strip() not in readme] == []
