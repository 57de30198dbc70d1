"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.versions import newer_than_tested

# Tests must pass on a machine with no model hub in reach, and must not wait for one.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Workers share the cores; so do the processes that tests start. Threads that wait for a core spin, and cost tenfold.
if _workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    _threads = max(1, (os.cpu_count() or 1) // int(_workers))
    os.environ["OMP_NUM_THREADS"] = str(_threads)
    torch.set_num_threads(_threads)

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
SHARED = ROOT.parent / "shared"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the packages that are newer than the newest that were tested: where a failure may come from."""
    if newer := newer_than_tested():
        terminalreporter.section("newer than tested (.ci/newest.txt)")
        terminalreporter.write_line("\n".join(newer))


@pytest.fixture
def samples() -> Path:
    return SAMPLES


@pytest.fixture
def shared_mobilenet() -> Path:
    path = SHARED / "weights" / "mobilenetv2_100.tflite_in1k.safetensors"
    if not path.exists():
        pytest.skip("needs ../shared/weights, which this checkout does not have beside it")
    return path


@pytest.fixture
def shared_camvid() -> Path:
    path = SHARED / "data" / "camvid"
    if not path.exists():
        pytest.skip("needs ../shared/data, which this checkout does not have beside it")
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small, coloured, non-square photograph-like JPEG: 72x96."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    path = tmp_path / "photo.jpg"
    coarse.resize((96, 72), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs remember stays out of the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
