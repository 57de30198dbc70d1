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
from safetensors.torch import load_file
from torch import Tensor, nn

from featup_cli.backbones.weights import first_line
from featup_cli.errors import InputError, UsageError, WeightsError
from featup_cli.io.files import check_readable
from featup_cli.upsamplers.weights import build_upsampler, fill_upsampler

State = dict[str, Tensor]

# A tensor that tells each method, whatever stands before its name.
_TELLING = {"jbu-released": "up1.range_temp", "resfu": "norm_x.weight"}
IMPORTABLE = tuple(_TELLING)
# Beside the upsampler, FeatUp's checkpoints hold the backbone with its norm and what training needed.
_FEATUP_OTHERS = ("model.", "downsampler.", "scale_net.")
_FEATUP_NORM = "model.1.norm."


@dataclass(frozen=True)
class Checkpoint:
    """An upsampler read from a checkpoint.

    Attributes:
        method: as `build_upsampler` names it.
        upsampler: in eval mode.
        channels: of the features.
        normed: a norm over channels goes before the upsampler.
        parameters: how many numbers were read.
        ignored: how many tensors belong to other parts (backbone, downsampler, ...).
    """

    method: str
    upsampler: nn.Module
    channels: int
    normed: bool
    parameters: int
    ignored: int


def read_checkpoint(path: Path, method: str | None = None, normed: bool | None = None) -> Checkpoint:
    """Read an upsampler from a checkpoint or state dict of others.

    Args:
        path: a torch file (read with `weights_only`) or safetensors.
        method: `jbu-released` or `resfu`; None finds out.
        normed: whether to build FeatUp's variant with a norm; None does so if the checkpoint has one.
    Raises:
        WeightsError: the file can't be read without running code, or holds no such upsampler, a part of one, or more.
    """
    state = _tensors_of(path)
    found = next((m for m, name in _TELLING.items() if _prefix(state, name) is not None), None)
    if found is None or (method is not None and method != found):
        wanted = method or " or ".join(IMPORTABLE)
        raise WeightsError(f"{path}: holds no {wanted} upsampler; its tensors are {_some(state)}")
    prefix = _prefix(state, _TELLING[found]) or ""
    if found == "jbu-released":
        config, own = _read_featup(path, state, prefix, normed)
    else:
        config, own = _read_resfu(path, state, prefix)
    try:
        upsampler = build_upsampler(found, config)
    except UsageError as error:
        raise WeightsError(f"{path}: its tensors have shapes that fit no {found} upsampler: {error}") from None
    fixed = {name: value for name, value in upsampler.named_buffers() if name in upsampler.state_dict()}
    fill_upsampler(upsampler, path, own | fixed)
    parameters = sum(p.numel() for p in upsampler.parameters())
    return Checkpoint(found, upsampler, config["channels"], bool(config.get("norm")), parameters, len(state) - len(own))


def _read_featup(path: Path, state: State, prefix: str, normed: bool | None) -> tuple[dict[str, Any], State]:
    """Config and tensors of FeatUp's module, without those of other parts."""
    root = prefix.removesuffix("upsampler.")
    others = tuple(root + part for part in _FEATUP_OTHERS)
    if unexpected := [name for name in state if not name.startswith((prefix, *others))]:
        raise WeightsError(f"{path}: holds tensors that are no part of FeatUp's module: {_some(unexpected)}")
    own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix) and not n.startswith(others)}
    channels = _shape(path, own, "fixup_proj.1.weight", 4)[0]
    before = root + _FEATUP_NORM
    norm = {f"norm.{n.removeprefix(before)}": v for n, v in state.items() if n.startswith(before)}
    if normed and not norm:
        raise WeightsError(f"{path}: is the variant without a norm ({before}weight is missing); with it was asked for")
    normed = bool(norm) if normed is None else normed
    if normed:
        own = {f"upsampler.{name}": value for name, value in own.items()} | norm
    return {"channels": channels, "norm": normed}, own


def _read_resfu(path: Path, state: State, prefix: str) -> tuple[dict[str, Any], State]:
    """Config and tensors of a ReSFU module; whatever lies outside its prefix is another part of a network."""
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    config: dict[str, Any] = {
        "channels": _shape(path, own, "norm_x.weight", 1)[0],
        "guidance_channels": _shape(path, own, "norm_y.weight", 1)[0],
        "projection": _shape(path, own, "q.weight", 4)[0],
        "guidance": "image" if any(name.startswith("stem.") for name in own) else "features",
        "guided_query": "GF.kernel" in own,
    }
    scores = [kind for kind in ("semantic", "detail") if f"{kind}_scores.weight" in own]
    if scores:
        hidden, width, side, _ = _shape(path, own, f"{scores[0]}_scores.weight", 4)
        config |= {"hidden": hidden, "groups": config["projection"] // max(1, width), "kernel_size": side}
        config["scores"] = "both" if len(scores) == 2 else scores[0]
    else:
        config["similarity"] = "inner_product"
    # The guided filter's kernel is all ones, of a shape that differs between versions.
    own.pop("GF.kernel", None)
    return config, own


def _tensors_of(path: Path) -> State:
    try:
        check_readable(path, "a checkpoint")
        with path.open("rb") as stream:
            start = stream.read(9)
    except InputError as error:
        raise WeightsError(str(error)) from None
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror or error}") from None
    if start[8:] == b"{":
        try:
            return load_file(path)
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


def _shape(path: Path, state: State, name: str, rank: int) -> torch.Size:
    if name not in state or state[name].ndim != rank:
        problem = "is missing" if name not in state else f"has the shape {list(state[name].shape)}"
        raise WeightsError(f"{path}: {name} {problem}; its tensors are {_some(state)}")
    return state[name].shape


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return f"{', '.join(listed[:4])}{more}" if listed else "none"
