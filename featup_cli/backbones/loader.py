"""The record of a kind of backbone; free of torch, so that help texts can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Alias(NamedTuple):
    """The full name behind a short name, with its weights tag, and a one-line description."""

    reference: str
    description: str


@dataclass(frozen=True)
class Loader:
    """One kind of backbone.

    Attributes:
        name: of the kind.
        load: `module:function` that takes a `BackboneConfig` and a torch device and returns a `Backbone`. It raises
            UsageError for invalid settings and WeightsError for weights that are unavailable or don't fit.
        aliases: short names that this loader serves.
        any_name: also load every name that is not an alias of another loader.
        advice: a hint for users of these backbones.
        recognize: `module:function` that takes tensors by name and returns the name of the backbone that they are
            weights of, or None; empty if there is none.
        check: `module:function` that takes a `BackboneConfig` and raises UsageError or WeightsError for what is found
            wrong without torch; called before `load`.
    """

    name: str
    load: str
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    any_name: bool = False
    advice: str = ""
    recognize: str = ""
    check: str = ""
