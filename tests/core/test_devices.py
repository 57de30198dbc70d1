"""Devices that are refused before torch is loaded, for other builds of torch than this one."""

from __future__ import annotations

import ctypes
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from featup_cli.core import devices
from featup_cli.core.describe import choose_device
from featup_cli.core.errors import UsageError

HEADER = "enum class DeviceType : int8_t {\n  CPU = 0,\n  CUDA = 1, // CUDA.\n  XPU = 12, // XPU\n};\n"


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a folder that looks like torch's: a function of its version.py, its header, and its driver's devices."""

    def install(version: str, header: str = HEADER, driver: int | None = None) -> None:
        place = tmp_path / "include" / "c10" / "core" / "DeviceType.h"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(header)
        (tmp_path / "version.py").write_text(version)
        spec = ModuleSpec("torch", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        monkeypatch.delitem(sys.modules, "torch")
        monkeypatch.setattr(devices, "find_spec", lambda name: spec)
        monkeypatch.setattr(ctypes, "CDLL", lambda name: load(driver))

    def load(count: int | None) -> SimpleNamespace:
        if count is None:
            raise OSError

        def get_count(pointer) -> int:
            pointer._obj.value = count
            return 0

        return SimpleNamespace(cuInit=lambda flags: 0 if count else 100, cuDeviceGetCount=get_count)

    return install


def refused(name: str) -> bool:
    try:
        devices.check_device(name)
    except UsageError:
        return True
    return False


@pytest.mark.parametrize(
    ("version", "driver", "expected"),
    [
        ("cuda = None\nhip = None", 2, [True, True, True]),
        ("cuda = '12.8'\nhip = None", None, [True, True, True]),
        ("cuda = '12.8'\nhip = None", 0, [True, True, True]),
        ("cuda = '12.8'\nhip = None", 2, [False, False, True]),
        ("cuda = None\nhip = '6.2'", None, [False, False, False]),
        ("from . import nothing", None, [False, False, False]),
        ("__version__ = '9'", None, [False, False, False]),
    ],
    ids=["CPU build", "no driver", "no GPU", "two GPUs", "ROCm", "unreadable", "says nothing"],
)
def test_cuda_is_refused_where_it_cannot_be(build, version: str, driver: int | None, expected: list[bool]) -> None:
    build(version, driver=driver)
    assert [refused(name) for name in ("cuda", "cuda:1", "cuda:2")] == expected


def test_types_are_those_of_the_installed_torch(build, monkeypatch: pytest.MonkeyPatch) -> None:
    build("cuda = None")
    assert not any(refused(name) for name in ("auto", "cpu", "cpu:0", "xpu:1", "privateuseone"))
    assert refused("mine")
    assert refused("")
    monkeypatch.setattr(devices, "entry_points", lambda group: ["a package that adds a type"])
    assert not refused("mine")


def test_without_a_list_of_types_none_is_refused(build) -> None:
    build("cuda = None", header="")
    assert not refused("mine")


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:99", "mps", "xpu", "nosuch", "meta", "CPU", "privateuseone"])
def test_what_is_refused_early_torch_has_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch")
        early = refused(name)
    if early:
        with pytest.raises(UsageError, match="not available here"):
            choose_device(name)


def test_all_types_of_torch_are_in_its_header() -> None:
    folder = Path(find_spec("torch").submodule_search_locations[0])
    for name in ("cpu", "cuda", "xpu", "mps", "meta", "hpu", "mtia", "xla", "vulkan", "ipu", "privateuseone"):
        assert torch.device(name).type == name
        assert devices._may_exist(name, folder)
    assert not devices._may_exist("nosuch", folder)


def test_a_device_without_data_is_no_device() -> None:
    with pytest.raises(UsageError, match="--device meta: not available here"):
        choose_device("meta")
