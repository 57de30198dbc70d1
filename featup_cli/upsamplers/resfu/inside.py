"""What ReSFU compares and how it weighs neighbours, to be looked at (ReSFU, figures 6 and 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.upsamplers.resfu.plan import Keep, Plan
from featup_cli.upsamplers.resfu.rows import Rows
from featup_cli.upsamplers.resfu.selection import NeighborSelection
from featup_cli.upsamplers.resfu.upsampler import ReSFU


@dataclass(frozen=True)
class Inside:
    """Maps of one picture, on the CPU; None for those of a score that is not used.

    Attributes:
        query: q [D, H, W].
        key: k [D, H, W], upsampled.
        aligned: q_GF [D, H, W], the query aligned with the key.
        smoothed: q_GS [D, H, W].
        scores: of each kind in use, `semantic` and `detail`, [P, K, K] at P pixels.
        weights: softmax of their sum without neighbours outside the picture, [P, K, K].
    """

    query: Tensor
    key: Tensor | None
    aligned: Tensor | None
    smoothed: Tensor | None
    scores: dict[str, Tensor]
    weights: Tensor


@torch.no_grad()
def trace(model: ReSFU, image: Tensor, lr_feats: Tensor, size: Size, pixels: Sequence[tuple[int, int]]) -> Inside:
    """What `model(image, lr_feats, size)` makes its result of.

    Args:
        model: the upsampler, on the device of the others.
        image: guidance [1, 3, H', W'], or the map that the model takes in its place.
        lr_feats: [1, C, h, w].
        size: (height, width) of the result.
        pixels: (row, column) of the result where scores and weights are wanted.
    """
    weight, lr_size = model.q.weight, (lr_feats.shape[2], lr_feats.shape[3])
    plan = Plan(model.config, lr_size, size, weight.device, Keep.NARROW)
    with torch.autocast(weight.device.type, enabled=False):
        pairs = model.pairs(image, lr_feats, plan)
        selection = NeighborSelection(model.scores(pairs, plan), lr_feats, plan)
        kinds = [kind for kind, map in (("semantic", pairs.aligned), ("detail", pairs.smoothed)) if map is not None]
        by_kind = dict(zip(kinds, selection.scores, strict=True))
        side = model.config.kernel_size

        def at_pixels(rows: Rows) -> Tensor:
            grids = [rows(row, row + 1)[0, :, 0, column] for row, column in pixels]
            return torch.stack(grids).unflatten(1, (side, side)).cpu()

        scores = {kind: at_pixels(rows) for kind, rows in by_kind.items()}
        weights = at_pixels(selection.weights)
        maps = {
            name: None if map is None else map.rows(0, size[0])[0].cpu()
            for name, map in (("query", pairs.query), ("aligned", pairs.aligned), ("smoothed", pairs.smoothed))
        }
        key = None if pairs.key is None else next(pairs.key.neighbors(0, 0, size[0]))[0].cpu()
    query = maps["query"]
    assert query is not None
    return Inside(query, key, maps["aligned"], maps["smoothed"], scores, weights)
