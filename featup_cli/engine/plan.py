"""Sizes of what will be made for a picture, before anything is loaded. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featup_cli.core.shapes import Size, resolve_network_size, resolve_output_size
from featup_cli.engine.settings import Output, Upsampling

FACTORED_COMPONENTS = 128
"""Principal components that files with factors keep, of features with more channels."""
VALUE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Plan:
    """Sizes for one picture, all (height, width): of the network's input, its grid of tokens, and the result."""

    network: Size
    grid: Size
    output: Size


def plan_sizes(settings: Upsampling, backbone: Mapping[str, Any], size: Size, name: str) -> Plan:
    """Sizes for a picture.

    Args:
        settings: what to do.
        backbone: its identity, as requests hold it.
        size: (height, width) of the picture.
        name: of the picture, for messages.
    Raises:
        UsageError: a size is invalid.
    """
    native, fixed, multiple = tuple(backbone["native_size"]), backbone["fixed_size"], backbone["patch_multiple"]
    # A network of a fixed size has that one whatever the method's settings ask for.
    short_side = settings.short_side if fixed is None else settings.resize
    network = resolve_network_size(size, short_side, native, multiple, fixed and tuple(fixed), name)
    grid = (network[0] // backbone["stride"], network[1] // backbone["stride"])
    return Plan(network, grid, resolve_output_size(settings.output_size, size, network, grid))


def feature_bytes(output: Output, channels: int, plan: Plan) -> int:
    """About how large a feature file will be: its features or their factors, and the low-resolution ones."""
    kept, factors, tokens = channels, 0, math.prod(plan.grid)
    if output.storage == "factored":
        kept = min(channels, FACTORED_COMPONENTS, tokens)
        factors = 4 * (kept + 1) * channels
    return VALUE_BYTES[output.dtype] * (kept * math.prod(plan.output) + channels * tokens) + factors
