"""FeatUp's checkpoints (Lightning): which of their tensors are the upsampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featup_cli.core.errors import WeightsError
from featup_cli.upsamplers.weights.imported import State, shape_of, some

# Beside the upsampler, FeatUp's checkpoints hold the backbone with its norm and what training needed.
_OTHERS = ("model.", "downsampler.", "scale_net.")
_NORM = "model.1.norm."


def read(path: Path, state: State, prefix: str, normed: bool | None) -> tuple[dict[str, Any], State]:
    """Config and tensors of FeatUp's module, without those of other parts."""
    root = prefix.removesuffix("upsampler.")
    others = tuple(root + part for part in _OTHERS)
    if unexpected := [name for name in state if not name.startswith((prefix, *others))]:
        raise WeightsError(f"{path}: holds tensors that are no part of FeatUp's module: {some(unexpected)}")
    own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix) and not n.startswith(others)}
    channels = shape_of(path, own, "fixup_proj.1.weight", 4)[0]
    before = root + _NORM
    norm = {f"norm.{n.removeprefix(before)}": v for n, v in state.items() if n.startswith(before)}
    if normed and not norm:
        raise WeightsError(f"{path}: is the variant without a norm ({before}weight is missing); with it was asked for")
    normed = bool(norm) if normed is None else normed
    if normed:
        own = {f"upsampler.{name}": value for name, value in own.items()} | norm
    return {"channels": channels, "norm": normed}, own
