"""Whatever the bytes of a file: it is read, or refused by one of our own errors, in little time and memory.

2,000 cases by default, the same in every run; FEATUP_FUZZ=10000 tries that many, others in every run.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featup_cli.cli.info import describe_lines
from featup_cli.core.errors import FeatUpError
from featup_cli.engine.render import render
from featup_cli.io.describe import describe_file
from featup_cli.io.features import load_features
from featup_cli.io.header import read_provenance
from featup_cli.io.mapped import open_features
from featup_cli.pictures.read import load_image
from featup_cli.pictures.visualize import visualize
from featup_cli.upsamplers.implicit.saved import load_model
from featup_cli.upsamplers.weights.file import load_upsampler, read_metadata
from tests.faults.mutations import (
    changed_bytes,
    changed_data,
    changed_json,
    feature_files,
    model_files,
    picture_files,
    upsampler_files,
)

resource: Any = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and alarms as on Linux")

CASES = int(os.environ.get("FEATUP_FUZZ", "2000"))
MAX_SECONDS = 20
MAX_MEMORY = 1 << 30  # bytes beyond what the process has
MAX_PIXELS = 1_000_000
# What code in a file would have to do to do anything, by the names of Python's audit events.
FORBIDDEN = (
    "pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
    "os.remove", "os.rename", "os.mkdir", "ctypes.dlopen",
)  # fmt: skip


def share(percent: int) -> Callable[[Any], Any]:
    """Settings of a test that takes a part of all cases."""
    return settings(
        max_examples=max(CASES * percent // 100, 1), deadline=None, database=None,
        derandomize="FEATUP_FUZZ" not in os.environ,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


class Watch:
    """Notes what is forbidden while a file is read; audit hooks can't be removed, so there is one."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (event in FORBIDDEN or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))):
            self.seen.append(f"{event} {arguments}")


WATCH = Watch()


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {MAX_SECONDS} s")


@contextmanager
def limited() -> Iterator[None]:
    """Time and memory are limited within, and nothing may be run or written."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MAX_MEMORY, before[1]))
    signal.alarm(MAX_SECONDS)
    WATCH.on = True
    try:
        yield
    finally:
        WATCH.on = False
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, previous)
    assert not WATCH.seen


def _dawdle() -> None:
    signal.alarm(1)
    signal.pause()


def test_the_limits_hold() -> None:
    with pytest.raises(MemoryError), limited():
        bytearray(2 * MAX_MEMORY)
    with pytest.raises(TimeoutError), limited():
        _dawdle()
    for forbidden in (lambda: pickle.loads(pickle.dumps(print)), lambda: os.mkdir("/proc/none")):
        with pytest.raises(AssertionError), limited(), suppress(OSError):
            forbidden()
        WATCH.seen.clear()


def attempt(read: Callable[[Path], Any], path: Path) -> Any:
    """What a function makes of a file; None if it refuses it in one line that names it."""
    refusal = f"{path}: "
    try:
        with limited():
            return read(path)
    except FeatUpError as error:
        refusal = str(error)
    assert str(path) in refusal
    assert "memory" not in refusal
    return None


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for read, files in (
        (check_features, feature_files), (check_model, model_files), (load_upsampler, upsampler_files),
        (load_image, picture_files),
    ):  # fmt: skip
        # What is imported at first use is not the file's doing.
        for name, data in files().items():
            file = tmp_path_factory.mktemp("valid") / name
            file.write_bytes(data)
            if name not in ("torch", "pickle"):
                read(file)
    return tmp_path_factory.mktemp("fuzz") / "file.safetensors"


def check_features(path: Path) -> None:
    file = load_features(path)
    assert file.features.ndim == 3
    with patch("featup_cli.pictures.visualize.save_png"):  # nothing may be written
        visualize([path])
    with open_features(path) as mapped:
        assert mapped.shape == file.features.shape
        part = mapped[:, :1].float().numpy()
        np.testing.assert_allclose(part, file.features[:, :1].float().numpy(), rtol=1e-2, atol=1e-2)
        assert (mapped.lr_features is None) == (file.lr_features is None)


def describe(path: Path) -> None:
    facts = describe_file(path)
    json.dumps(facts)
    "\n".join(describe_lines(facts)).encode()


def check_model(path: Path) -> None:
    load_model(path)
    result = render(path, output_size=(2, 3), device="cpu")
    assert result.features.shape[1:] == (2, 3)


def check_picture(path: Path) -> None:
    picture = load_image(path, MAX_PIXELS)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.ndim == 3
    assert picture.pixels.shape[2] == 3
    assert 0 < picture.pixels.size <= 3 * MAX_PIXELS


def changed(kind: str) -> st.SearchStrategy[bytes]:
    """Safetensors files of a kind with changes of every sort."""
    return changed_bytes(kind) | changed_json(kind) | changed_data(kind)


@share(40)
@given(data=changed("features"))
def test_feature_files(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for read in (check_features, read_provenance, describe):
        attempt(read, path)


@share(15)
@given(data=changed("models"))
def test_fitted_models(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for read in (check_model, describe):
        attempt(read, path)


@share(15)
@given(data=changed("upsamplers"))
def test_weights_of_upsamplers(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for read in (load_upsampler, read_metadata, describe):
        attempt(read, path)


@share(30)
@given(data=changed_bytes("pictures"))
def test_pictures(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    attempt(check_picture, path)
