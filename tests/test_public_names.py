"""The public names: there, never hidden by a module, and with examples that run."""

from __future__ import annotations

import doctest
import pkgutil
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
    if getattr(thing, "__name__", "") != name:
        return  # no function or class, or a second name of one
    for example in doctest.DocTestFinder(recurse=False).find(thing, name, globs={}):
        assert doctest.DocTestRunner().run(example).failed == 0
