"""All backbones by name, and how to load one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_kernels.plugins import collect

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.loader import Alias, Loader
from featup_cli.backbones.timm.loader import LOADER as TIMM
from featup_cli.backbones.tiny.loader import LOADER as TINY
from featup_cli.core.checks import checked
from featup_cli.core.references import resolve

if TYPE_CHECKING:
    from torch import device as Device

    from featup_cli.backbones.api import Backbone


LOADERS: dict[str, Loader] = collect((TINY, TIMM), "featup.backbones", Loader)
"""By name: our own, then those of other packages (entry points `featup.backbones`)."""
ALIASES: dict[str, Alias] = {}
"""Short names of all backbones. If two loaders share a name, the first one has it."""
for _loader in LOADERS.values():
    ALIASES |= {name: alias for name, alias in _loader.aliases.items() if name not in ALIASES}


def resolve_alias(name: str) -> str:
    """The full name for an alias; any other name or reference is returned unchanged."""
    alias = ALIASES.get(name)
    return alias.reference if alias else name


def find_loader(name: str) -> Loader:
    """The loader of an alias, else the one that takes any name."""
    named = (loader for loader in LOADERS.values() if name in loader.aliases)
    return next(named, None) or next(loader for loader in LOADERS.values() if loader.any_name)


def check_backbone(config: BackboneConfig) -> None:
    """Raise UsageError or WeightsError for settings that are found wrong without torch."""
    check = find_loader(config.name).check
    if check:
        resolve(check)(config)


@checked
def load_backbone(config: BackboneConfig | str, device: Device | str = "cpu") -> Backbone:
    """Load the backbone that `config` names, ready to run on `device` (auto, cpu, cuda, ...).

    A name alone stands for its defaults.

    Raises:
        UsageError: an unknown name or device, a layer out of range, an argument that the model does not take.
        WeightsError: weights are unavailable or don't fit; never replaced by random ones.

    Example:
        >>> import featup_cli as featup
        >>> backbone = featup.load_backbone("tiny")
        >>> backbone.channels, backbone.stride
        (96, 16)
    """
    if isinstance(config, str):
        config = BackboneConfig(config)
    check_backbone(config)

    from featup_cli.core.describe import choose_device  # with torch

    backbone: Backbone = resolve(find_loader(config.name).load)(config, choose_device(device))
    return backbone
