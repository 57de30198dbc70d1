"""Which backbone to load, and how; free of torch, so that `--help` can show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featup_cli.core.checks import checked
from featup_cli.core.errors import UsageError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
"""Number formats that a backbone can be asked to compute in."""


@checked
@dataclass(frozen=True)
class BackboneConfig:
    """Which backbone to load.

    Attributes:
        name: an alias (`featup info` lists them), a timm name, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
        layer: Python index of a block (ViT) or stage (hierarchical network); None is the last one.
        norm: apply the network's final norm to the features of `layer`, whichever block that is; False: raw.
        weights: file to load instead of the published weights (safetensors, or a plain torch state dict).
        model_args: arguments for the model's constructor; `mean` and `std` set the input normalisation.
        offline: never use the network, as with HF_HUB_OFFLINE=1.
        random_weights: an untrained network, the same in every run; for tests.
        precision: number format to compute in, a value of `PRECISIONS`. `auto` is float32 on a CPU; elsewhere the first
            of float16 and bfloat16 whose features of the first picture stay within 1 % of float32, else float32.
    Raises:
        UsageError: both weights and random weights.
    """

    name: str = "tiny"
    layer: int | None = None
    norm: bool = True
    weights: Path | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = False
    random_weights: bool = False
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.weights is not None and self.random_weights:
            raise UsageError(f"--weights {self.weights} and --random-weights exclude each other; omit one of them")


def describe_weights(source: str) -> str:
    """A phrase for weights (`Backbone.weights_source`) that aren't the published ones; empty for those."""
    kind, _, place = source.partition(":")
    return {"random": "random weights, for tests only", "file": f"weights of {place}"}.get(kind, "")


def parse_model_args(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` texts, as given to `--backbone-arg`.

    A value becomes an int, float, bool (true/false), None (none), a tuple of those (comma between them), or stays
    a string. A later pair overrides an earlier one of the same key.

    Raises:
        UsageError: a text is not `key=value` with a key that Python could use as an argument name.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = (part.strip() for part in pair.partition("="))
        items = tuple(_parse_value(item.strip()) for item in value.split(","))
        if not separator or not key.isidentifier() or "" in items:
            raise UsageError(f"--backbone-arg '{pair}' is not KEY=VALUE, as in pad_type=same or mean=0.5,0.5,0.5")
        arguments[key] = items if "," in value else items[0]
    return arguments


def _parse_value(text: str) -> Any:
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
