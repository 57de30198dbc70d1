"""State dicts of the authors' ReSFU module: the settings follow from names and shapes.

Not the guided filter's scale: 2, which is what their module has unless it is told another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featup_cli.core.errors import WeightsError
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
    if config["guided_query"]:
        config["filter_radius"] = _radius(path, own)
    scores = [kind for kind in ("semantic", "detail") if f"{kind}_scores.weight" in own]
    if scores:
        hidden, read, side, _ = shape_of(path, own, f"{scores[0]}_scores.weight", 4)
        compressed, width, _, _ = shape_of(path, own, f"{scores[0]}_scores.channel_compressor.1.weight", 4)
        groups = hidden // max(1, width)
        config |= {"hidden": hidden, "groups": groups, "compressed": compressed, "kernel_size": side}
        config["similarity"] = "concat" if read * groups == 2 * config["projection"] else "pcdc"
        config["scores"] = "both" if len(scores) == 2 else scores[0]
        for name in (f"{kind}_scores.bias" for kind in scores):
            if name in own and own[name].shape == (1, hidden, 1, 1):  # as published
                own[name] = own[name].flatten()
    else:
        config["similarity"] = "inner_product"
    return config, own


def _radius(path: Path, own: State) -> int:
    """The guided filter's, of its kernel [D, 1, 1, 2 radius + 1], which is taken away: it is all ones."""
    side = shape_of(path, own, "GF.kernel", 4)[3]
    if side % 2 == 0 or not own.pop("GF.kernel").eq(1).all():
        raise WeightsError(f"{path}: GF.kernel is no window of an odd number of ones; take another file")
    return side // 2
