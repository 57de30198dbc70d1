"""Which methods there are, and how an upsampler is made by name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_kernels.plugins import collect

from featup_cli.core.checks import checked
from featup_cli.core.errors import UsageError
from featup_cli.core.progress import Announce, Progress, no_progress
from featup_cli.core.references import resolve
from featup_cli.core.shapes import Size
from featup_cli.upsamplers.baselines.method import METHODS as BASELINES
from featup_cli.upsamplers.denser.method import METHODS as DENSER
from featup_cli.upsamplers.dip.method import METHOD as DIP
from featup_cli.upsamplers.guided.method import METHOD as GUIDED
from featup_cli.upsamplers.implicit.method import METHOD as IMPLICIT
from featup_cli.upsamplers.interpolation.method import METHODS as INTERPOLATIONS
from featup_cli.upsamplers.jbu.method import CLASSICAL, JBU
from featup_cli.upsamplers.method import Import, Making, Method, Needs
from featup_cli.upsamplers.resfu.method import METHOD as RESFU
from featup_cli.upsamplers.zssr.method import METHOD as ZSSR

if TYPE_CHECKING:
    from featup_cli.upsamplers.api import Extract, Upsampler

METHODS: dict[str, Method] = collect(
    (*INTERPOLATIONS, GUIDED, CLASSICAL, JBU, RESFU, IMPLICIT, *DENSER, DIP, ZSSR, *BASELINES), "featup.methods", Method
)
"""By name: our own, then those of other packages (entry points `featup.methods`)."""
DEFAULT_METHOD = IMPLICIT.name
TRAINABLE: dict[str, Method] = {name: method for name, method in METHODS.items() if method.trainable}
"""Methods with weights."""
IMPORTS: dict[str, Import] = {form.kind: form for method in TRAINABLE.values() for form in method.imports}
"""Forms in which others publish weights, by kind."""
FEED_FORWARD: dict[str, Method] = {name: method for name, method in METHODS.items() if not method.per_picture}
"""Methods whose upsampler is made once for all pictures; others take 10 to 100 times as long."""

METHOD_GROUPS: dict[str, Collection[str]] = {"all": METHODS, "fast": FEED_FORWARD}
"""Several methods by one name."""


def method_names(text: str) -> list[str]:
    """The names that a text in any case stands for: of a group, or with commas between them, known or not."""
    known = {name.lower(): name for name in METHODS}
    names = METHOD_GROUPS.get(text.lower(), text.split(","))
    return [known.get(name.strip().lower(), name.strip()) for name in names]


def find_method(name: str) -> Method:
    """The method by name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; one of: {', '.join(METHODS)}")
    return METHODS[name]


def method_of(config: Any) -> Method:
    """The trainable method that settings are of."""
    return next(method for method in TRAINABLE.values() if type(config) is method.config)


def check_method(name: str, upsampler: Path | str = "auto") -> Method:
    """The method by name; raises UsageError for an unknown one, or for weights (`upsampler`) of one that has none."""
    method = find_method(name)
    if str(upsampler) != "auto" and not method.trainable:
        raise UsageError(
            f"--upsampler {upsampler}: method {name} has no weights; those that have: {', '.join(TRAINABLE)}"
        )
    return method


@checked
def make_upsampler(  # noqa: PLR0913 (a public call: keywords are what its users want)
    method: str,
    *,
    backbone: Extract | None = None,
    network_size: Size | None = None,
    config: Any = None,
    seed: int = 0,
    progress: Progress = no_progress,
    upsampler: Path | str = "auto",
    allow_other_backbone: bool = False,
    offline: bool = False,
    announce: Announce | None = None,
) -> Upsampler:
    """Build an upsampler by name.

    Args:
        method: a key of `METHODS`.
        backbone: needed by methods that run it (`Needs.BACKBONE`), of which `strided` and `large-image` take a loaded
            `Backbone` only. Weights are checked against a loaded `Backbone`.
        network_size: (height, width) at which `backbone` sees the picture; needed with it.
        config: settings of the method, such as `ImplicitConfig`; None for its defaults.
        seed: makes methods that draw at random repeatable.
        progress: called as the work goes on.
        upsampler: weights of a trained method: `auto` for the package's own, a released name (`featup info` lists
            them), or a file of `save_upsampler`.
        allow_other_backbone: accept weights for another backbone with as many channels.
        offline: never use the network.
        announce: told of downloads; None for silence.
    Raises:
        UsageError: unknown method, or something that the method needs is missing.
        WeightsError: weights are unavailable or for another backbone; they are never random.

    Example:
        >>> import torch, featup_cli as featup
        >>> upsample = featup.make_upsampler("jbu")
        >>> upsample(torch.rand(1, 3, 64, 96), torch.rand(1, 384, 4, 6), (64, 96)).shape
        torch.Size([1, 384, 64, 96])
    """
    record = check_method(method, upsampler)
    if not (backbone is None or callable(backbone)):
        raise UsageError(f"backbone: give a loaded one, of featup.load_backbone, not {type(backbone).__name__}")
    if record.needs is Needs.BACKBONE and (backbone is None or network_size is None):
        raise UsageError(f"method {method} needs the backbone and its input size: it runs the backbone itself")
    if config is not None and not isinstance(config, record.config):
        raise UsageError(f"settings of {method} are a {record.config.__name__}, not a {type(config).__name__}")
    made: Upsampler = resolve(record.build)(
        Making(
            record,
            backbone=backbone,
            network_size=network_size,
            config=config,
            seed=seed,
            progress=progress,
            upsampler=upsampler,
            allow_other_backbone=allow_other_backbone,
            offline=offline,
            announce=announce,
        )
    )
    return made
