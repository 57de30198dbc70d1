"""The record of an upsampling method; free of torch, so that help texts and tables can be made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_cli.core.progress import Announce, Progress, no_progress
from featup_cli.core.settings import NoSettings
from featup_cli.core.shapes import Size

if TYPE_CHECKING:
    from featup_cli.upsamplers.api import Extract

WEIGHED = "featup_cli.upsamplers.weights.find:build"
"""Builds a method that has a network: with packaged, released or given weights, never with random ones."""


class Needs(Enum):
    """What a method looks at, beside the low-resolution features."""

    FEATURES = "nothing else"
    PICTURE = "the picture"
    BACKBONE = "the backbone, which it runs itself"


@dataclass(frozen=True)
class Import:
    """A form in which others publish weights of a method.

    Attributes:
        kind: how files of ours call weights of this form, as `jbu-released`.
        telling: name of a tensor that tells it, whatever stands before that name.
        read: `module:function`, of a path, the tensors, what stands before the names of the upsampler's own, and
            whether a norm is wanted; to the arguments of `network` and those tensors.
        network: `module:class` of the form's own module; empty for that of the method.
    """

    kind: str
    telling: str
    read: str
    network: str = ""


def never(config: Any) -> bool:
    """Weights with these settings are for one backbone."""
    return False


@dataclass(frozen=True)
class Method:
    """One upsampling method, declared beside its code and listed in `registry.py`.

    Attributes:
        name: of `--method`.
        about: one line, for help and tables.
        source: paper and section.
        build: `module:function`, of a `Making`, to an `Upsampler`.
        network: `module:class` that weights are for and that `featup train` trains; empty for a method without weights.
            It is made of `channels` (None for any number) and `config`.
        config: frozen dataclass of its settings.
        printed: settings that give the form which its paper prints, where the defaults are another.
        needs: what it looks at.
        per_picture: its upsampler is made for each picture: it depends on its input size, or fits it and says how far.
        fits_model: it fits a network, which `--save-model` writes and `featup render` reads.
        light: it leaves cores idle, so that a CPU works on several pictures at once.
        any_backbone: of the settings, to whether weights with them fit features of every backbone.
        kernels: operations of `featup_kernels` that it runs.
        imports: forms in which others publish its weights.
        alternatives: names of weights in the package that are never taken unasked: NAME is `METHOD_NAME.safetensors`.
        presets: `module:name` of settings by name, for `featup train --preset`; empty for the defaults alone.
        releases: `module:name` of released weights by name; empty if there are none.
    """

    name: str
    about: str
    source: str
    build: str = WEIGHED
    network: str = ""
    config: type[Any] = NoSettings
    printed: Mapping[str, Any] = field(default_factory=dict)
    needs: Needs = Needs.PICTURE
    per_picture: bool = False
    fits_model: bool = False
    light: bool = False
    any_backbone: Callable[[Any], bool] = never
    kernels: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()
    alternatives: tuple[str, ...] = ()
    presets: str = ""
    releases: str = ""

    @property
    def trainable(self) -> bool:
        """Whether it has weights, which `featup train` makes."""
        return bool(self.network)


@dataclass(frozen=True)
class Making:
    """What an upsampler is built with.

    Attributes:
        method: the record.
        backbone: images to features; None if none is at hand.
        network_size: (height, width) at which the backbone sees the picture; None if there is no backbone.
        config: settings of the method; None for its defaults.
        seed: makes methods that draw at random repeatable.
        progress: called as the work goes on.
        upsampler: weights: `auto`, a released name, or a file.
        allow_other_backbone: accept weights for another backbone with as many channels.
        offline: never use the network.
        announce: told of downloads; None for silence.
    """

    method: Method
    backbone: Extract | None = None
    network_size: Size | None = None
    config: Any = None
    seed: int = 0
    progress: Progress = field(default=no_progress)
    upsampler: Path | str = "auto"
    allow_other_backbone: bool = False
    offline: bool = False
    announce: Announce | None = None
