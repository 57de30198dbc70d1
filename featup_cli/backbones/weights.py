"""Weights of a network: read files safely, load them into a model, and compute their digest."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from featup_cli.backbones.registry import LOADERS, resolve_alias
from featup_cli.core.errors import InputError, WeightsError, first_line
from featup_cli.core.references import resolve
from featup_cli.io.describe import OTHERS
from featup_cli.io.files import check_readable
from featup_cli.io.header import UPSAMPLER, parse_object
from featup_cli.io.safetensors import read_header, read_tensors, sniff

# Where training codes keep the state dict in a checkpoint; averaged weights come first.
_NESTS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "encoder")
# What training codes put before the names of the backbone's own weights.
_WRAPPERS = ("_orig_mod.", "module.", "model.", "teacher.", "backbone.")
# Parts of pretraining recipes that are not part of the backbone.
_PRETRAINING_ONLY = ("mask_token", "decoder", "dino_head", "ibot_head")

Converter = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a weights file and what its metadata may carry: `architecture`, `mean`, `std`, `timm_kwargs`."""

    path: Path
    state: dict[str, Tensor]
    architecture: str | None = None
    mean: Any = None
    std: Any = None
    timm_kwargs: dict[str, Any] = field(default_factory=dict)


def read_weights(path: Path) -> WeightsFile:
    """Read a safetensors file or a torch checkpoint, without ever running code from it.

    Raises:
        WeightsError: the file can't be read, has another format or content, or would need to run code.
    """
    try:
        check_readable(path, "a file of weights")
        kind = sniff(path)
    except InputError as error:
        raise WeightsError(f"weights {error}") from None
    except OSError as error:
        raise WeightsError(f"weights {path} can't be read: {error.strerror or error}") from None
    state, metadata = _read_safetensors(path) if kind in ("safetensors", "cut") else (_read_torch(path), {})
    if "featup" in metadata:
        written = str((parse_object(metadata["featup"]) or {}).get("format"))
        hint = "; give it with --upsampler" if written == UPSAMPLER else ""
        raise WeightsError(f"{path}: holds {OTHERS.get(written, 'features')}, not weights of a backbone{hint}")
    if not state:
        raise WeightsError(f"weights {path} hold no tensors")
    try:
        mean, std, arguments = (json.loads(metadata.get(key, "null")) for key in ("mean", "std", "timm_kwargs"))
    except json.JSONDecodeError as error:
        raise WeightsError(f"weights {path} have mean, std or timm_kwargs that are not JSON: {error}") from None
    if not isinstance(arguments, dict | None):
        raise WeightsError(f"weights {path} have timm_kwargs that are not a JSON object")
    named = re.fullmatch(r"[\w./:-]{1,100}", metadata.get("architecture", ""))
    return WeightsFile(path, state, named and named[0], mean, std, arguments or {})


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return _unwrap(read_tensors(path)), read_header(path).metadata
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights {path} are not a whole safetensors file: {first_line(error)}") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        # Training scripts often keep their parsed options beside the weights; Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what can't be read is reported below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own: a broken file can raise nearly anything.
        reason = (
            f"weights {path} can't be read safely: neither safetensors nor a plain torch state dict "
            f"({type(error).__name__}); pickled code is never run, so save the state dict as safetensors"
        )
        raise WeightsError(reason) from None
    return _unwrap(checkpoint)


def _unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """The backbone's own tensors: nests opened, wrapper prefixes stripped."""
    while isinstance(checkpoint, dict):
        nest = next((key for key in _NESTS if isinstance(checkpoint.get(key), dict)), None)
        if nest is None:
            break
        checkpoint = checkpoint[nest]
    if not isinstance(checkpoint, dict):
        return {}
    state = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    stripped = True
    while stripped:
        stripped = False
        for prefix in _WRAPPERS:
            # What lies beside the wrapped backbone (a loss, a decoder) is not part of it.
            inner = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            if inner:
                state, stripped = inner, True
    return state


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], heads: tuple[str, ...] = ()) -> list[str]:
    """Why tensors don't cover a network's `own`, except its `heads`: phrases with some names; empty if they do."""

    def matters(name: str) -> bool:
        in_head = any(name == part or name.startswith(f"{part}.") for part in heads)
        return not (in_head or name.endswith("num_batches_tracked"))

    missing = [name for name in own if name not in state and matters(name)]
    extra = [name for name in state if name not in own and matters(name) and not name.startswith(_PRETRAINING_ONLY)]
    reshaped = [name for name in own if name in state and state[name].shape != own[name].shape and matters(name)]
    return [
        f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in (("missing", missing), ("unexpected", extra), ("of another shape", reshaped))
        if names
    ]


def refuse_others(weights: WeightsFile, name: str) -> None:
    """Raise WeightsError if weights that don't fit the backbone `name` are known to be of another network.

    The file's metadata say it, or its tensors are exactly those of a well-known one.
    """
    functions = (resolve(loader.recognize) for loader in LOADERS.values() if loader.recognize)
    other = weights.architecture or next(filter(None, (function(weights.state) for function in functions)), None)
    if other is not None and other.partition(".")[0] != resolve_alias(name).partition(".")[0]:
        raise WeightsError(f"{weights.path}: holds weights of {other}, not of {name}; give --backbone {other}")


def load_weights(
    model: nn.Module,
    weights: WeightsFile,
    name: str = "",
    converter: Converter | None = None,
    heads: tuple[str, ...] = (),
) -> None:
    """Copy the weights into `model`. They must cover all of it except `heads`.

    Args:
        model: what to fill, in place.
        weights: from `read_weights`.
        name: of the backbone, for messages; empty for something else.
        converter: converts checkpoints of the original authors to the model's names and shapes.
        heads: names of the parts after the features, which may differ or be absent.
    Raises:
        WeightsError: the weights belong to another network; the message names it, or lists some of the tensors.
    """
    state: Mapping[str, Tensor] = weights.state
    problems = []
    if converter is not None:
        try:
            state = converter(dict(state), model)
        except Exception as error:  # made for files of its own kind, it fails in its own ways on others
            problems = [f"conversion failed: {first_line(error)}"]
    own = model.state_dict()
    problems += misfits(own, state, heads)
    if problems:
        if name:
            refuse_others(weights, name)
        raise WeightsError(f"weights {weights.path} don't fit {name or type(model).__name__}: {'; '.join(problems)}")
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    model.load_state_dict(fitting, strict=False)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of a state dict, whatever its order."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


@contextmanager
def seeded() -> Iterator[None]:
    """In this context random CPU numbers are the same every time; the state outside is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
