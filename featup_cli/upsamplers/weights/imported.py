"""Checkpoints of upsamplers that others trained: FeatUp's release (Lightning) and ReSFU's state dict.

Parameter names and shapes decide what a checkpoint is; nothing in it is ever executed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from featup_cli.core.checks import checked
from featup_cli.core.errors import InputError, UsageError, WeightsError, first_line
from featup_cli.core.references import resolve
from featup_cli.io.files import check_readable
from featup_cli.io.safetensors import read_tensors, sniff
from featup_cli.upsamplers.api import UpsamplerModule
from featup_cli.upsamplers.registry import IMPORTS
from featup_cli.upsamplers.weights.file import build_upsampler, fill_upsampler

State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """An upsampler read from a checkpoint.

    Attributes:
        kind: as `build_upsampler` names it.
        upsampler: in eval mode.
        channels: of the features.
        normed: a norm over channels goes before the upsampler.
        parameters: how many numbers were read.
        ignored: how many tensors belong to other parts (backbone, downsampler, ...).
    """

    kind: str
    upsampler: UpsamplerModule
    channels: int
    normed: bool
    parameters: int
    ignored: int


@checked
def read_checkpoint(path: Path | str, kind: str | None = None, normed: bool | None = None) -> Checkpoint:
    """Read an upsampler from a checkpoint or state dict of others.

    Args:
        path: a torch file (read with `weights_only`) or safetensors.
        kind: a key of `IMPORTS`; None finds out.
        normed: whether to build FeatUp's variant with a norm; None does so if the checkpoint has one.
    Raises:
        WeightsError: the file can't be read without running code, or holds no such upsampler, a part of one, or more.

    Example:
        >>> import tempfile, torch, featup_cli as featup
        >>> from featup_cli.upsamplers.resfu.upsampler import ReSFU
        >>> path = f"{tempfile.mkdtemp()}/mine.pth"
        >>> torch.save(ReSFU(96).state_dict(), path)
        >>> found = featup.read_checkpoint(path)
        >>> found.kind, found.channels
        ('resfu', 96)
    """
    path = Path(path)
    state = _tensors_of(path)
    found = next((form for form in IMPORTS.values() if _prefix(state, form.telling) is not None), None)
    if found is None or (kind is not None and kind != found.kind):
        wanted = kind or " or ".join(IMPORTS)
        raise WeightsError(f"{path}: holds no {wanted} upsampler; its tensors are {some(state)}")
    config, own = resolve(found.read)(path, state, _prefix(state, found.telling) or "", normed)
    try:
        upsampler = build_upsampler(found.kind, config)
    except UsageError as error:
        raise WeightsError(f"{path}: its tensors have shapes that fit no {found.kind} upsampler: {error}") from None
    fixed = {name: value for name, value in upsampler.named_buffers() if name in upsampler.state_dict()}
    fill_upsampler(upsampler, path, own | fixed)
    parameters = sum(p.numel() for p in upsampler.parameters())
    return Checkpoint(
        found.kind, upsampler, config["channels"], bool(config.get("norm")), parameters, len(state) - len(own)
    )


def _tensors_of(path: Path) -> State:
    try:
        check_readable(path, "a checkpoint")
        kind = sniff(path)
    except InputError as error:
        raise WeightsError(str(error)) from None
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror or error}") from None
    if kind in ("safetensors", "cut"):
        try:
            return read_tensors(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: is not a whole safetensors file: {first_line(error)}") from None
    checkpoint = _load_without_code(path)
    while isinstance(checkpoint, dict) and isinstance(checkpoint.get("state_dict"), dict):
        checkpoint = checkpoint["state_dict"]
    if not isinstance(checkpoint, dict) or not all(isinstance(v, Tensor) for v in checkpoint.values()):
        raise WeightsError(f"{path}: is no state dict, nor a checkpoint with one under `state_dict`")
    return {str(name): value for name, value in checkpoint.items()}


def _load_without_code(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what can't be read is reported below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own: a broken file can raise nearly anything.
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise WeightsError(
                f"{path}: needs code to be run ({code[1]}), which is never done; where you trust it, save the state "
                "dict alone: torch.save(checkpoint['state_dict'], FILE)"
            ) from None
        raise WeightsError(f"{path}: is no whole torch file or safetensors ({type(error).__name__})") from None


def _prefix(state: Iterable[str], telling: str) -> str | None:
    """What stands before the names of the upsampler's tensors, or None if it is not there."""
    for name in state:
        before, found, after = name.rpartition(telling)
        if found and not after and (not before or before.endswith(".")):
            return before
    return None


def shape_of(path: Path, state: State, name: str, rank: int) -> torch.Size:
    """Shape of a tensor that must be there and have this many dimensions; WeightsError if not."""
    if name not in state or state[name].ndim != rank:
        problem = "is missing" if name not in state else f"has the shape {list(state[name].shape)}"
        raise WeightsError(f"{path}: {name} {problem}; its tensors are {some(state)}")
    return state[name].shape


def some(names: Iterable[str]) -> str:
    """The first names and how many more there are, for messages."""
    listed = list(names)
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return f"{', '.join(listed[:4])}{more}" if listed else "none"
