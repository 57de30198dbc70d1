"""Weights of feed-forward upsamplers: our file format, and which backbone a file is for.

A file is safetensors. Its metadata entry `featup` is one JSON object:

| key | meaning |
| --- | --- |
| `format` | `FORMAT` |
| `method` | `jbu-released`, or a key of `trainable.CONFIGS` |
| `config` | arguments of `build_upsampler` |
| `backbone` | `"any"`, or what is known of the backbone (see `backbone_identity`) |
| `provenance` | where the weights come from, any JSON object |
| `card` | text for people |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from featup_cli.backbones.base import Backbone
from featup_cli.backbones.weights import WeightsFile, first_line, load_weights
from featup_cli.errors import OutputError, UsageError, WeightsError
from featup_cli.io.atomic import atomic_path
from featup_cli.io.files import unicode_name
from featup_cli.io.tensors import parse_object
from featup_cli.upsamplers.baselines.carafe import CARAFE
from featup_cli.upsamplers.baselines.deconv import Deconv
from featup_cli.upsamplers.baselines.dysample import DySample
from featup_cli.upsamplers.baselines.fade import FADE
from featup_cli.upsamplers.baselines.pixelshuffle import PixelShuffle
from featup_cli.upsamplers.baselines.resize_conv import ResizeConv
from featup_cli.upsamplers.baselines.sapa import SAPA
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.released import ReleasedJBU
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler
from featup_cli.upsamplers.normed import NormedUpsampler
from featup_cli.upsamplers.resfu.upsampler import ReSFU
from featup_cli.upsamplers.trainable import CONFIGS, serves_every_backbone

FORMAT = "featup-upsampler-1"


_MODULES: dict[str, Callable[..., nn.Module]] = {
    "resfu": ReSFU,
    "carafe": CARAFE,
    "sapa": SAPA,
    "fade": FADE,
    "dysample": DySample,
    "pixelshuffle": PixelShuffle,
    "deconv": Deconv,
    "resize-conv": ResizeConv,
}
"""Modules that are made of a number of channels and the settings of `CONFIGS`."""


def _build_jbu(**config: Any) -> nn.Module:
    return JBUUpsampler(JBUConfig(**config))


def _build_released(*, channels: int, norm: bool = False) -> nn.Module:
    upsampler = ReleasedJBU(channels)
    return NormedUpsampler(channels, upsampler) if norm else upsampler


def _build_for_channels(method: str, /, *, channels: int | None = None, **config: Any) -> nn.Module:
    settings = CONFIGS[method](**config)
    if channels is None and not serves_every_backbone(settings):
        raise UsageError(f"{method} needs the number of channels of the features")
    return _MODULES[method](channels, settings)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "jbu": _build_jbu,
    "jbu-released": _build_released,
    **{method: partial(_build_for_channels, method) for method in _MODULES},
}


def build_upsampler(method: str, config: Mapping[str, Any]) -> nn.Module:
    """An upsampler with the random weights that training starts from.

    Args:
        method: `jbu` with the fields of `JBUConfig`; another of `trainable.CONFIGS` with `channels` (unless it serves
            every backbone) and the fields of its settings; or `jbu-released` with `channels` and `norm`, whether a norm
            over channels goes before it.
        config: JSON values; what is left out has its default.
    Raises:
        UsageError: an unknown method or setting, or a value that can't be.
    """
    if method not in _BUILDERS:
        raise UsageError(f"unknown kind of upsampler {method!r}; one of: {', '.join(_BUILDERS)}")
    try:
        return _BUILDERS[method](**config)
    except TypeError as error:  # how Python says that an argument is unknown, missing or of another type
        raise UsageError(f"{method} can't be built with {json.dumps(dict(config))}: {first_line(error)}") from None


def describe_upsampler(upsampler: nn.Module) -> tuple[str, dict[str, Any]]:
    """The method and the whole config that `build_upsampler` makes such a module of.

    Raises:
        UsageError: a module of another kind.
    """
    if isinstance(upsampler, JBUUpsampler):
        return "jbu", asdict(upsampler.config)
    for method, kind in _MODULES.items():
        if type(upsampler) is kind:
            return method, {"channels": upsampler.channels, **asdict(upsampler.config)}  # type: ignore[call-overload]
    normed = isinstance(upsampler, NormedUpsampler)
    released = upsampler.upsampler if isinstance(upsampler, NormedUpsampler) else upsampler
    if isinstance(released, ReleasedJBU):
        residual = released.fixup_proj[1]
        assert isinstance(residual, nn.Conv2d)
        return "jbu-released", {"channels": residual.in_channels, "norm": normed}
    raise UsageError(f"{type(upsampler).__name__} is none of our upsamplers: {', '.join(_BUILDERS)}")


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
    """
    if missing := {"backbone", "provenance", "card"} - set(metadata):
        raise UsageError(f"metadata of an upsampler need {', '.join(sorted(missing))}")
    method, config = describe_upsampler(upsampler)
    text = json.dumps({**metadata, "format": FORMAT, "method": method, "config": config}, default=str)
    state = {name: value.detach().cpu().clone().contiguous() for name, value in upsampler.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(state, temporary, {"featup": text})
        except SafetensorError as error:
            raise OutputError(f"{path}: can't be written: {first_line(error)}; choose another output") from None


def load_upsampler(path: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """Read an upsampler from a file of `save_upsampler`, in eval mode, and the file's metadata.

    Raises:
        WeightsError: no such file, another format, or tensors that are missing, unexpected or of another shape.
    """
    path = Path(path)
    metadata, state = _read(path, tensors=True)
    try:
        _check_extent(metadata["config"], state)
        upsampler = build_upsampler(metadata["method"], metadata["config"])
    except UsageError as error:
        raise WeightsError(f"{path}: made by another version of featup: {error}") from None
    except Exception as error:  # settings that anybody may have written fail in nearly any way
        raise WeightsError(f"{path}: its settings can't be ({first_line(error)}); take another file") from None
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
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror or error}") from None
    if start[8:] != b"{":  # a safetensors file is an 8-byte length and then JSON
        raise WeightsError(
            f"{path}: is not a safetensors file; a checkpoint of others is converted by "
            f"`featup import-weights {path.name} -o FILE`"
        )
    try:
        with unicode_name(path) as name, safe_open(name, framework="pt") as file:
            text = (file.metadata() or {}).get("featup")
            state = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
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
    if metadata["format"] != FORMAT:
        raise WeightsError(f"{path}: has format {metadata['format']}, but this version reads {FORMAT}: update featup")
    if str(metadata.get("method")) not in _BUILDERS or not isinstance(metadata.get("config"), dict):
        raise WeightsError(f"{path}: holds an upsampler of unknown method {metadata.get('method')!r}: update featup")
    if metadata.get("backbone") != "any" and not isinstance(metadata.get("backbone"), dict):
        raise WeightsError(f"{path}: does not say which backbone it is for; make the file again")
    return metadata


def backbone_identity(backbone: Backbone) -> dict[str, Any]:
    """What fixes the features that an upsampler is trained on, for the metadata of its file."""
    return {
        "name": backbone.resolved,
        "channels": backbone.channels,
        "stride": backbone.stride,
        "layer": backbone.layer,
        "norm_applied": backbone.norm_applied,
        "weights_sha256": backbone.weights_sha256,
    }


def check_backbone(
    metadata: Mapping[str, Any], backbone: Backbone, source: str, allow_other: bool = False
) -> list[str]:
    """Whether an upsampler was made for the features of a backbone.

    Args:
        metadata: of `load_upsampler`; what they don't say is not checked.
        backbone: whose features are to be upsampled.
        source: the file or name, for messages.
        allow_other: let features of another backbone pass if they have the right number of channels.
    Returns:
        Sentences that the user should read.
    Raises:
        WeightsError: the backbone, its layer, norm, stride or number of channels differ; both sides are named.
    """
    wanted, given = metadata["backbone"], backbone_identity(backbone)
    if wanted == "any":
        return []

    def differs(key: str) -> bool:
        return wanted.get(key) is not None and wanted[key] != given[key]

    sides = f"is for {describe_identity(wanted)}, but the features are of {describe_identity(given)}"
    if differs("channels"):
        raise WeightsError(f"upsampler {source} {sides}")
    other_name = wanted.get("name") is not None and not _same_model(wanted["name"], given["name"])
    if other_name or any(differs(key) for key in ("stride", "layer", "norm_applied")):
        if allow_other:
            return [f"upsampler {source} {sides}"]
        raise WeightsError(
            f"upsampler {source} {sides}; choose that backbone, train an upsampler for this one (`featup train`), or "
            "try it all the same with --allow-other-backbone"
        )
    if wanted.get("name") is None:
        return [f"upsampler {source} does not say which backbone it is for; only its channels fit for certain"]
    if differs("weights_sha256"):
        return [f"upsampler {source} was trained on other weights of {given['name']}"]
    return []


def describe_identity(identity: Mapping[str, Any] | str) -> str:
    """One phrase for the `backbone` of a file's metadata."""
    if isinstance(identity, str):
        return "any backbone"
    parts = [str(identity.get("name") or "an unknown backbone")]
    parts += [f"{identity['channels']} channels"] if identity.get("channels") else []
    parts += [f"{key} {identity[key]}" for key in ("stride", "layer") if identity.get(key) is not None]
    norm = identity.get("norm_applied")
    parts += [] if norm is None else ["final norm applied" if norm else "no final norm"]
    return f"{parts[0]} ({', '.join(parts[1:])})" if parts[1:] else parts[0]


def _same_model(wanted: str, given: str) -> bool:
    """Whether timm names mean the same weights; one without a tag means any weights of that architecture."""
    architecture, _, tag = wanted.partition(".")
    return wanted == given or (not tag and given.partition(".")[0] == architecture)
