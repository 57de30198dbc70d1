"""The record of a kind of backbone; free of torch, so that help texts can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Alias(NamedTuple):
    """What a short name stands for: the name with its weights tag, and one line about it."""

    reference: str
    description: str


@dataclass(frozen=True)
class Loader:
    """One kind of backbone.

    Attributes:
        name: of the kind.
        load: `module:function`, of a `BackboneConfig` and a torch device, to a `Backbone`. It raises UsageError for
            what it does not take, and WeightsError for weights that are unavailable or don't fit.
        aliases: short names that this loader serves.
        any_name: it also takes every name that is no alias of another loader.
        advice: what users of these backbones should know, for people.
    """

    name: str
    load: str
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    any_name: bool = False
    advice: str = ""
