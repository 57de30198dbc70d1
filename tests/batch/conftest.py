"""Fixtures of runs over many pictures; what tests do with them is in `runs.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch.runs import Processes, make_pictures, numbered


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path / "site")
    yield started
    for process in started.running:
        process.kill()
        process.communicate()


@pytest.fixture
def twelve(tmp_path: Path) -> Path:
    """A folder of twelve pictures."""
    make_pictures(tmp_path / "in", numbered(12))
    return tmp_path / "in"
