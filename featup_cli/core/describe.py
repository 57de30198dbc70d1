"""Devices of this machine."""

from __future__ import annotations

import platform

import torch

from featup_cli.core.devices import unavailable
from featup_cli.core.text import counted


def choose_device(name: torch.device | str) -> torch.device:
    """Resolve `auto` to the first accelerator, else the CPU; check a named one.

    Raises:
        UsageError: the device doesn't exist or is unavailable.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # which the device of tensors without data can't do
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise unavailable(str(name)) from None
    return device


def describe_device(device: torch.device) -> str:
    """A device's name and size, for people and records."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if device.type == "cpu":
        return f"{platform.machine()}, {counted(torch.get_num_threads(), 'thread')}"
    return device.type
