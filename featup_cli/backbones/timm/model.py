"""Any timm model as a backbone."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from featup_cli.backbones.api import Backbone, TokenNetwork
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.grid import Grid, measure_grid, run_probe
from featup_cli.backbones.hub import hub_access, is_offline, unavailable
from featup_cli.backbones.precision import Network, Precision
from featup_cli.backbones.registry import resolve_alias
from featup_cli.backbones.timm.dilation import can_dilate, checked_dilation, dilate
from featup_cli.backbones.timm.library import timm
from featup_cli.backbones.timm.loader import ALIASES as TIMM_ALIASES
from featup_cli.backbones.timm.names import close_names, is_location, unknown
from featup_cli.backbones.timm.overlap import TimmModel, attention_heads, can_overlap, overlap_patches
from featup_cli.backbones.weights import (
    Converter,
    digest,
    load_weights,
    misfits,
    read_weights,
    refuse_others,
    seeded,
)
from featup_cli.core.errors import UsageError, first_line
from featup_cli.core.shapes import Size

# Arguments of timm's factory that decide where weights come from or what the model returns: ours to set.
_RESERVED = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "out_indices", "feature_cls", "in_chans", "scriptable", "exportable", "no_jit"),
}
# timm names the switch for free input sizes differently: Swin, then ViT and EVA; the rest has none. Swin comes first,
# since it takes any argument without a word before timm 1.0.31.
_FREE_SIZE_SWITCHES: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})
# Parts after the features in timm models.
_HEADS = ("head", "head_dist", "fc", "classifier", "fc_norm", "attn_pool", "norm_head", "conv_head", "bn2")


def load_timm(config: BackboneConfig, device: torch.device) -> Backbone:
    """Load a timm model as `load_backbone` does.

    Features come from `forward_intermediates`, or from `features_only` if a model has only that. With `norm`, timm
    applies the final norm of a ViT to any block (as DINO's own code does), but that of a hierarchical network only to
    the last stage. Some networks have no norm over positions because they normalise after pooling: then `norm_applied`
    is False. SAM's norm is its neck, which is used for the last block only.
    """
    loaded = open_model(config, device)
    layer = _check_layer(config, len(loaded.model.feature_info))
    network, grid, normed = _choose(loaded, layer)
    return loaded.backbone(network, lambda twin: _networks(loaded, twin, layer)[normed], grid, normed, layer)


@dataclass(frozen=True)
class OpenModel:
    """A timm model with its weights.

    Attributes:
        config: the configuration that was loaded.
        reference: its timm name, or its location.
        model: in eval mode, frozen.
        device: where it will run.
        source: origin of its weights, as `Backbone.weights_source`.
        arguments: the constructor's arguments.
        mean, std: input normalisation.
        native_size: (height, width) of the input that it was made for.
    """

    config: BackboneConfig
    reference: str
    model: TimmModel
    device: torch.device
    source: str
    arguments: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    native_size: Size

    def backbone(
        self,
        network: Network,
        network_of: Callable[[TimmModel], Network],
        grid: Grid,
        norm_applied: bool,
        layer: int,
        details: Mapping[str, Any] | None = None,
    ) -> Backbone:
        """A network of this model as a backbone.

        Args:
            network: normalised pictures to features.
            network_of: builds such a network from a twin of the model.
            grid: the grid of its features.
            norm_applied, layer: as of `Backbone`.
            details: further facts for the record.
        """
        model, native = self.model, self.native_size

        def dilated(stride: int) -> Network:
            return network_of(dilate(self.reference, self.arguments, model, stride))

        tag, architecture = (model.pretrained_cfg.get(key) for key in ("tag", "architecture"))
        return Backbone(
            network=network,
            name=self.config.name,
            resolved=self.reference if ":" in self.reference or not tag else f"{architecture}.{tag}",
            channels=grid.channels,
            stride=grid.stride,
            patch_multiple=grid.patch_multiple,
            native_size=grid.fixed_size or (grid.nearest(native[0]), grid.nearest(native[1])),
            fixed_size=grid.fixed_size,
            mean=self.mean,
            std=self.std,
            norm_applied=norm_applied,
            layer=layer,
            weights_source=self.source,
            weights_sha256=digest(model.state_dict()),
            device=self.device,
            precision=Precision(self.config.precision, self.device, f"{self.reference} {architecture}.{tag}"),
            details={
                "architecture": architecture,
                "layers": len(model.feature_info),
                "model_args": json.loads(json.dumps(self.arguments, default=str)),
                "timm": timm.__version__,
                "torch": torch.__version__,
                **(details or {}),
            },
            attention_heads=attention_heads(model),
            restride=(lambda stride: network_of(overlap_patches(model, stride))) if can_overlap(model) else None,
            dilate=checked_dilation(dilated, network, grid, self.device) if can_dilate(model) else None,
        )


def open_model(config: BackboneConfig, device: torch.device, with_head: bool = False) -> OpenModel:
    """The model that `config` names, with its weights.

    Args:
        config, device: as for `load_backbone`.
        with_head: whether a weights file must hold the parts after the features too.
    Raises:
        UsageError, WeightsError: as `load_backbone`.
    """
    reference = resolve_alias(config.name)
    _check_name(reference)
    file = read_weights(config.weights) if config.weights else None
    arguments = {**(file.timm_kwargs if file else {}), **config.model_args}
    mean, std = (arguments.pop(key, getattr(file, key, None)) for key in ("mean", "std"))
    if reserved := sorted(_RESERVED & arguments.keys()):
        raise UsageError(f"{_origin(config, reserved[0])} can't be set: featup sets it itself")

    published = not (config.random_weights or file)
    with hub_access(
        config.offline, reference.startswith("hf-hub:") or (published and not reference.startswith("local-dir:"))
    ):
        source = _published_source(config.name, reference) if published else "random"
        try:
            model, arguments = _create(config.name, reference, arguments, source if published else "")
        except UsageError as error:
            if file and (unasked := file.timm_kwargs.keys() - config.model_args.keys()):
                refuse_others(file, config.name)
                raise UsageError(f"{error}; {', '.join(sorted(unasked))}: from the metadata of {file.path}") from None
            raise
    if file:
        source = f"file:{file.path}"
        optional = () if with_head else (*_HEADS, *_names(model.pretrained_cfg.get("classifier")))
        load_weights(model, file, config.name, _checkpoint_converter(model), optional)
    data_config = timm.data.resolve_model_data_config(model)
    mean, std = (
        _triple(_origin(config, key), data_config[key] if value is None else value, positive=key == "std")
        for key, value in (("mean", mean), ("std", std))
    )
    native = _pair(arguments.get("img_size", data_config["input_size"][1:]))
    model = model.eval().requires_grad_(False)
    return OpenModel(config, reference, model, device, source, arguments, mean, std, native)


def _published_source(name: str, reference: str) -> str:
    """Where timm finds the weights of `reference`. WeightsError if there are none, or none are cached when offline."""
    cfg = None if ":" in reference else timm.get_pretrained_cfg(reference)
    if cfg is None:
        return reference
    if cfg.hf_hub_id:
        return f"hf-hub:{cfg.hf_hub_id}"
    if not cfg.url:
        raise unavailable(name, "")
    # Weights on other servers are in torch's cache, which knows no offline mode.
    cached = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(str(cfg.url)).name
    if is_offline() and not cached.is_file():
        raise unavailable(name, f"url:{cfg.url}")
    return f"url:{cfg.url}"


def _create(name: str, reference: str, arguments: dict[str, Any], source: str) -> tuple[TimmModel, dict[str, Any]]:
    """The model, with free input sizes if it has a switch for them, and all its constructor arguments.

    Weights are those of `source`; random if it is empty.
    """
    failure: Exception | None = None
    for switch in _FREE_SIZE_SWITCHES:
        try:
            with seeded():
                model = timm.create_model(reference, pretrained=bool(source), **switch, **arguments)
            return model, {**switch, **arguments}
        except TypeError as error:  # an unknown argument shows before any weights are looked for
            failure = error
        except Exception as error:  # the hub client, torch and timm's checks of values each have errors of their own
            about_weights = isinstance(error, OSError | RuntimeError | SafetensorError) or not arguments
            if about_weights and (source or ":" in reference):
                raise unavailable(name, source or reference, error) from None
            failure = error
            break
    assert failure is not None
    if not arguments and ":" not in reference:
        raise failure
    given = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "its own configuration"
    raise UsageError(f"{name} does not accept {given}: {first_line(failure)}") from None


def _choose(loaded: OpenModel, layer: int) -> tuple[Network, Grid, bool]:
    """The network up to `layer`, its grid, and whether its norm acts: found by trial, not by kind of model."""
    model, device = loaded.model, loaded.device
    raw, normed = _networks(loaded, model, layer)
    reduction = model.feature_info[layer]["reduction"]
    grid = measure_grid(loaded.config.name, raw, reduction, loaded.native_size, device)
    if not loaded.config.norm:
        return raw, grid, False
    raw_features = run_probe(raw, grid.probe_size, device)
    try:
        normed_features = run_probe(normed, grid.probe_size, device)
    except AssertionError:  # how timm says that a network has no norm for features
        return raw, grid, False
    if raw_features.shape != normed_features.shape:
        # Another number of channels: a neck, made for the features of the last block.
        acts = layer == len(model.feature_info) - 1
    else:
        acts = not torch.equal(raw_features, normed_features)
    return (normed, grid._replace(channels=normed_features.shape[1]), True) if acts else (raw, grid, False)


def _check_name(reference: str) -> None:
    """Raise UsageError, with similar names, if timm doesn't know `reference`."""
    if is_location(reference):
        return
    architecture, _, tag = reference.partition(".")
    if not timm.is_model(architecture):
        raise unknown(reference, close_names(reference, timm.list_models()))
    if tag and not timm.models.is_model_pretrained(reference):
        tagged = timm.list_pretrained(f"{architecture}.*")
        raise unknown(reference, difflib.get_close_matches(reference, tagged, 3, 0) or [architecture])


def _check_layer(config: BackboneConfig, count: int) -> int:
    layer = -1 if config.layer is None else config.layer
    if not -count <= layer < count:
        raise UsageError(f"layer {layer} is out of range: {config.name} has 0 to {count - 1} (or -{count} to -1)")
    return layer % count


def _networks(loaded: OpenModel, model: TimmModel, layer: int) -> tuple[Network, Network]:
    """`model`, or a twin of it, up to `layer`, without and with the final norm: normalised images -> [B, C, h, w]."""
    if hasattr(model, "forward_intermediates"):
        options: dict[str, Any] = {"stop_early": True, "output_fmt": "NCHW", "intermediates_only": True}
        forward = partial(model.to(loaded.device).forward_intermediates, indices=[layer], **options)
        has_class_token = _has_class_token(model)
        return _network(forward, False, has_class_token), _network(forward, True, has_class_token)
    # The state dict of the full model, which was checked; timm would load a file leniently here.
    overlay = {"source": "", "state_dict": model.state_dict()}
    wanted: dict[str, Any] = {"features_only": True, "out_indices": (layer,), "pretrained_cfg_overlay": overlay}
    try:
        features = timm.create_model(loaded.reference, pretrained=True, **wanted, **loaded.arguments)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"{loaded.reference} doesn't expose its intermediate features: {first_line(error)}") from None
    features = features.eval().requires_grad_(False).to(loaded.device)
    return (lambda images: features(images)[0],) * 2


def _origin(config: BackboneConfig, key: str) -> str:
    """How messages name an argument: by the option, or by the file that it comes from."""
    return f"--backbone-arg {key}" if key in config.model_args else f"{config.weights}: {key} in its metadata"


def recognize(state: Mapping[str, Tensor]) -> str | None:
    """The architecture of the well-known ones (`ALIASES`) whose tensors these are, all but those of heads."""
    architectures = dict.fromkeys(alias.reference.partition(".")[0] for alias in TIMM_ALIASES.values())
    with torch.device("meta"):
        models = ((name, timm.create_model(name)) for name in architectures)
        return next((name for name, model in models if not misfits(model.state_dict(), state, _HEADS)), None)


def _network(forward: Callable[..., Any], norm: bool, has_class_token: bool) -> Network:
    """A network of `forward_intermediates` with one layer."""

    def features(images: Tensor) -> Tensor:
        found: Tensor = forward(images, norm=norm)[0]
        return found

    if not has_class_token:
        return features
    return TokenNetwork(features, lambda images: forward(images, norm=norm, return_prefix_tokens=True)[0])


def _has_class_token(model: TimmModel) -> bool:
    """Whether a class token is in the sequence of every block; some models have registers alone, or add it at the end.

    timm puts the class token before the registers.
    """
    takes = inspect.signature(model.forward_intermediates).parameters
    token = getattr(getattr(model, "embeds", model), "cls_token", None)  # NaFlexViT's is in a module of its own
    return "return_prefix_tokens" in takes and token is not None


def _checkpoint_converter(model: TimmModel) -> Converter | None:
    """timm's own converter for checkpoints of the original authors, from the module of the architecture."""
    entry = timm.models.model_entrypoint(model.pretrained_cfg["architecture"])
    convert = getattr(sys.modules[entry.__module__], "checkpoint_filter_fn", None)
    if convert is None or len(inspect.signature(convert).parameters) > 1:
        return convert
    return lambda state, _: convert(state)


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _pair(size: int | tuple[int, int]) -> Size:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _triple(name: str, value: Any, positive: bool) -> tuple[float, float, float]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(values) == 1:
        values *= 3
    numeric = all(isinstance(item, int | float) and math.isfinite(item) for item in values)
    if len(values) != 3 or not numeric or (positive and min(values) <= 0):
        raise UsageError(f"{name} must be one or three {'positive ' if positive else ''}numbers, not {value}")
    return values[0], values[1], values[2]
