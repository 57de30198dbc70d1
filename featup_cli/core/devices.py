"""Names of devices, checked without importing torch, which takes seconds."""

from __future__ import annotations

import ctypes
import re
import runpy
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from featup_cli.core.errors import UsageError

# Where torch's C++ headers list its types of devices; the place depends on the version.
_HEADERS = ("torch/headeronly/core/DeviceType.h", "c10/core/DeviceType.h")


def check_device(name: str) -> None:
    """Raise UsageError for a device that can't be had, as far as that shows without torch.

    Nothing is said where torch's folder can't be looked at; `choose_device` tries every device.
    """
    kind, _, index = name.partition(":")
    spec = find_spec("torch")
    if "torch" in sys.modules or name in ("auto", "cpu") or spec is None or not spec.submodule_search_locations:
        return
    folder = Path(spec.submodule_search_locations[0])
    count = _cuda_devices(folder) if kind == "cuda" else None
    if not _may_exist(kind, folder) or (count is not None and (int(index) if index.isdecimal() else 0) >= count):
        raise unavailable(name)


def parse_devices(text: str) -> list[str]:
    """`0,1` to cuda:0 and cuda:1; `cpu:2` to cpu twice; other names as they are.

    Raises:
        UsageError: the text has another form.
    """
    names: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:(\d+)|cpu(?::(\d+))?|(cuda(?::\d+)?|[a-z]+(?::\d+)?))\s*", part)
        if not match or match[2] == "0":
            raise UsageError(f"--devices {text}: expected GPU numbers (0,1), or cpu:2 for two processes on the CPU")
        if match[1]:
            names.append(f"cuda:{match[1]}")
        elif match[3]:
            names.append(match[3])
        else:
            names += ["cpu"] * int(match[2] or 1)
    return names


def check_devices(text: str) -> None:
    """Raise UsageError as `parse_devices` and, of each device, `check_device`."""
    for name in parse_devices(text):
        check_device(name)


def unavailable(name: str) -> UsageError:
    """The error for a device that isn't there."""
    return UsageError(f"--device {name}: not available here; `featup info` lists the available devices")


def _may_exist(kind: str, folder: Path) -> bool:
    """Whether torch, in this folder, may know a type of device: it lists it, or other packages add types."""
    headers = (folder / "include" / name for name in _HEADERS)
    listed = {kind for path in headers if path.is_file() for kind in _enumerated(path.read_text("utf-8"))}
    return not listed or kind in listed | {"privateuseone"} or bool(entry_points(group="torch.backends"))


def _enumerated(header: str) -> list[str]:
    return [name.lower() for name in re.findall(r"^ +(\w+) = \d+,", header, re.MULTILINE)]


def _cuda_devices(folder: Path) -> int | None:
    """How many devices CUDA offers to torch in this folder; None if torch knows other devices by this name."""
    try:
        build = runpy.run_path(str(folder / "version.py"))
    except Exception:  # another layout than this one, whatever it raises
        return None
    if build.get("hip") or "cuda" not in build:
        return None
    if build["cuda"] is None:
        return 0
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if works else 0
