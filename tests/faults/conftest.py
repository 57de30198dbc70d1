"""Fixtures of runs that go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch.conftest import processes, twelve
from tests.faults.disks import Disk

__all__ = ["disk", "processes", "twelve"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 64 MB."""
    mounted = Disk(tmp_path / "disk")
    if not mounted.mount():
        pytest.skip("can't mount a disk for the test: needs Linux, and root or a CI machine with sudo")
    yield mounted
    mounted.unmount()
