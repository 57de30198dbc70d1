"""State dicts of the authors' ReSFU module: the settings follow from names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featup_cli.upsamplers.weights.imported import State, shape_of


def read(path: Path, state: State, prefix: str, normed: bool | None) -> tuple[dict[str, Any], State]:
    """Config and tensors of a ReSFU module; whatever lies outside its prefix is another part of a network."""
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    config: dict[str, Any] = {
        "channels": shape_of(path, own, "norm_x.weight", 1)[0],
        "guidance_channels": shape_of(path, own, "norm_y.weight", 1)[0],
        "projection": shape_of(path, own, "q.weight", 4)[0],
        "guidance": "image" if any(name.startswith("stem.") for name in own) else "features",
        "guided_query": "GF.kernel" in own,
    }
    scores = [kind for kind in ("semantic", "detail") if f"{kind}_scores.weight" in own]
    if scores:
        hidden, width, side, _ = shape_of(path, own, f"{scores[0]}_scores.weight", 4)
        config |= {"hidden": hidden, "groups": config["projection"] // max(1, width), "kernel_size": side}
        config["scores"] = "both" if len(scores) == 2 else scores[0]
    else:
        config["similarity"] = "inner_product"
    # The guided filter's kernel is all ones, of a shape that differs between versions.
    own.pop("GF.kernel", None)
    return config, own
