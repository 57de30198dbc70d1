"""Weights of feed-forward upsamplers: our file format, and which backbone a file is for.

A file is safetensors. Its metadata entry `featup` is one JSON object:

| key | meaning |
| --- | --- |
| `format` | `featup-upsampler-1` |
| `method` | a trainable method, or the form of an import such as `jbu-released` |
| `config` | arguments of `build_upsampler` |
| `backbone` | `"any"`, or what is known of the backbone (see `backbone_identity`) |
| `provenance` | where the weights come from, any JSON object |
| `card` | text for people |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from featup_cli.backbones.weights import WeightsFile, load_weights
from featup_cli.core.checks import checked
from featup_cli.core.errors import OutputError, UsageError, WeightsError, first_line
from featup_cli.core.references import resolve
from featup_cli.io.atomic import atomic_path
from featup_cli.io.header import UPSAMPLER, parse_object
from featup_cli.io.safetensors import read_header, read_tensors, sniff
from featup_cli.upsamplers.api import UpsamplerModule
from featup_cli.upsamplers.method import Method
from featup_cli.upsamplers.registry import TRAINABLE
from featup_cli.upsamplers.weights.normed import NormedUpsampler

KINDS: dict[str, tuple[Method, str]] = {
    kind: (method, network)
    for method in TRAINABLE.values()
    for kind, network in [(method.name, method.network), *((i.kind, i.network) for i in method.imports if i.network)]
}
"""What a file's `method` can be: the method that it serves, and the class of its module."""


def build_upsampler(kind: str, config: Mapping[str, Any]) -> UpsamplerModule:
    """An upsampler with the random weights that training starts from.

    Args:
        kind: of `KINDS`.
        config: arguments of the class, as its `arguments` gives them, JSON values; what is left out has its default.
    Raises:
        UsageError: an unknown kind or setting, or an invalid value.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of upsampler {kind!r}; one of: {', '.join(KINDS)}")
    try:
        module: UpsamplerModule = resolve(KINDS[kind][1]).from_arguments(**config)
    except TypeError as error:  # how Python says that an argument is unknown, missing or of another type
        raise UsageError(f"{kind} can't be built with {json.dumps(dict(config))}: {first_line(error)}") from None
    return module


def describe_upsampler(upsampler: nn.Module) -> tuple[str, dict[str, Any]]:
    """The kind and the whole config that `build_upsampler` makes such a module of.

    Raises:
        UsageError: a module of another kind.
    """
    inner = type(upsampler.upsampler if isinstance(upsampler, NormedUpsampler) else upsampler)
    for kind, (_, network) in KINDS.items():
        if network == f"{inner.__module__}:{inner.__qualname__}":
            return kind, upsampler.arguments()  # type: ignore[operator]
    raise UsageError(f"{type(upsampler).__name__} is none of our upsamplers: {', '.join(KINDS)}")


@checked
def save_upsampler(path: Path | str, upsampler: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write the weights of an upsampler, whole or not at all.

    Args:
        path: of the safetensors file.
        upsampler: one that `build_upsampler` can make; `method` and `config` of the file follow from it.
        metadata: `backbone` ("any", or the result of `backbone_identity`), `provenance` and `card`; and anything else
            that JSON holds.
    Raises:
        OutputError: the file can't be written.
        UsageError: metadata or module of another kind.

    Example:
        >>> import tempfile, featup_cli as featup
        >>> path = f"{tempfile.mkdtemp()}/copy.safetensors"
        >>> facts = {"backbone": "any", "provenance": {"copy of": "the packaged jbu"}, "card": "A copy."}
        >>> featup.save_upsampler(path, featup.make_upsampler("jbu").module, facts)
        >>> featup.load_upsampler(path)[1]["method"]
        'jbu'
    """
    if missing := {"backbone", "provenance", "card"} - set(metadata):
        raise UsageError(f"metadata of an upsampler need {', '.join(sorted(missing))}")
    method, config = describe_upsampler(upsampler)
    text = json.dumps({**metadata, "format": UPSAMPLER, "method": method, "config": config}, default=str)
    state = {name: value.detach().cpu().clone().contiguous() for name, value in upsampler.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(state, temporary, {"featup": text})
        except SafetensorError as error:
            raise OutputError(f"{path}: can't be written: {first_line(error)}; choose another output") from None


@checked
def load_upsampler(path: Path | str) -> tuple[UpsamplerModule, dict[str, Any]]:
    """Read an upsampler from a file of `save_upsampler`, in eval mode, and the file's metadata.

    Raises:
        WeightsError: no such file, another format, or tensors that are missing, unexpected or of another shape.

    Example:
        >>> import tempfile, featup_cli as featup
        >>> path = f"{tempfile.mkdtemp()}/copy.safetensors"
        >>> facts = {"backbone": "any", "provenance": {}, "card": ""}
        >>> featup.save_upsampler(path, featup.make_upsampler("resfu").module, facts)
        >>> module, metadata = featup.load_upsampler(path)
        >>> module.training, metadata["backbone"]
        (False, 'any')
    """
    path = Path(path)
    metadata, state = _read(path, tensors=True)
    try:
        _check_extent(metadata["config"], state)
        upsampler = build_upsampler(metadata["method"], metadata["config"])
    except UsageError as error:
        raise WeightsError(f"{path}: made by another version of featup: {error}") from None
    except Exception as error:  # settings that anybody may have written fail in nearly any way
        raise WeightsError(f"{path}: the settings in this file are invalid: {first_line(error)}") from None
    fill_upsampler(upsampler, path, state)
    return upsampler, metadata


def _check_extent(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for sizes far beyond the tensors of a file, before a module that large is made."""
    numbers = sum(tensor.numel() for tensor in state.values())
    side = max((size for tensor in state.values() for size in tensor.shape), default=0)
    for name, value in config.items():
        if isinstance(value, int) and value > 256 and (value > side or value**2 > 1000 * numbers):
            raise ValueError(f"{name} {value} is too much for its {numbers:,} numbers")


def fill_upsampler(upsampler: nn.Module, path: Path, state: dict[str, Tensor]) -> None:
    """Copy tensors into an upsampler, all of them, and set it to eval mode; `path` is for messages.

    Raises:
        WeightsError: tensors are missing, unexpected, of another shape, NaN or infinite.
    """
    load_weights(upsampler, WeightsFile(path, state))
    for name, value in upsampler.state_dict().items():
        if not value.isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinite values; take another file")
    upsampler.eval()


def take_weights(upsampler: nn.Module, path: Path | str) -> list[str]:
    """Copy those tensors of a file that an upsampler has too, at the same shape.

    Returns:
        names of the parts of the upsampler that got none.
    Raises:
        WeightsError: as `load_upsampler`, or the file is of another method.
    """
    given, metadata = load_upsampler(path)
    method, _ = describe_upsampler(upsampler)
    if metadata["method"] != method:
        raise WeightsError(f"{path}: holds weights of {metadata['method']}, not of {method}; give another file")
    own, state = upsampler.state_dict(), given.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    upsampler.load_state_dict(fitting, strict=False)
    return sorted({name.partition(".")[0] for name in own if name not in fitting})


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What a file says about itself; no tensor is read.

    Raises:
        WeightsError: as `load_upsampler`, as far as the header tells.
    """
    return _read(Path(path), tensors=False)[0]


def _read(path: Path, tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise WeightsError(f"{path}: can't be read: it is a pipe, socket or device")
    try:
        kind = sniff(path)
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror or error}") from None
    if kind not in ("safetensors", "cut"):
        raise WeightsError(
            f"{path}: is not a safetensors file; a checkpoint of others is converted by "
            f"`featup import-weights {path.name} -o FILE`"
        )
    try:
        text = read_header(path).metadata.get("featup")
        state = read_tensors(path) if tensors else {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: is not a whole safetensors file: {first_line(error)}") from None
    return _checked(path, text), state


def _checked(path: Path, text: str | None) -> dict[str, Any]:
    metadata = parse_object(text or "null")
    if metadata is None or not str(metadata.get("format")).startswith("featup-upsampler-"):
        raise WeightsError(
            f"{path}: has no featup metadata of an upsampler; a checkpoint of others is converted by "
            f"`featup import-weights {path.name} -o FILE`"
        )
    if metadata["format"] != UPSAMPLER:
        raise WeightsError(
            f"{path}: has format {metadata['format']}, but this version reads {UPSAMPLER}: update featup"
        )
    if str(metadata.get("method")) not in KINDS or not isinstance(metadata.get("config"), dict):
        raise WeightsError(f"{path}: holds an upsampler of unknown method {metadata.get('method')!r}: update featup")
    if metadata.get("backbone") != "any" and not isinstance(metadata.get("backbone"), dict):
        raise WeightsError(f"{path}: does not say which backbone it is for; make the file again")
    return metadata
