"""The query: the picture through a stem, or a map of features, normed and projected."""

from __future__ import annotations

import math
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.ops.taps import guidance_rows
from featup_cli.upsamplers.guidance import resize_guidance
from featup_cli.upsamplers.resfu.plan import Plan
from featup_cli.upsamplers.resfu.rows import Rows, bands_of, clamped, stored
from featup_cli.upsamplers.resfu.statistics import Map, Moments, norms_of, pointwise


def guidance_of(image: Tensor, stem: nn.Module | None, plan: Plan) -> Rows:
    """The map [B, G, H, W] that makes the query, from a picture [B, 3, H', W'], or without a stem from any map."""
    size = plan.size
    picture = stored(resize_guidance(image, size)) if plan.keep else partial(guidance_rows, image, size)
    if stem is None:
        return picture
    assert isinstance(stem, nn.Sequential)
    first, norm, second = cast(nn.Conv2d, stem[1]), cast(nn.GroupNorm, stem[2]), stem[4]
    height = plan.size[0]

    def convolved(start: int, stop: int) -> Tensor:
        # The stem repeats two pixels at the border: row y reads rows y - 2 to y of the picture.
        padded = F.pad(clamped(picture, height, start - 2, stop), (2, 2, 0, 0), mode="replicate")
        return F.conv2d(padded, first.weight, first.bias)

    hidden = plan.kept(convolved, 0, wide=True, height=height + 2)
    (affine,) = norms_of([(hidden, norm)], height + 2, plan.tall)
    return plan.kept(lambda start, stop: second(affine(hidden(start, stop + 2)).relu_()), plan.tall)


def query_of(guidance: Rows, norm: nn.GroupNorm, projection: nn.Conv2d, plan: Plan, smoothed: bool) -> tuple[Map, Map]:
    """The query [B, D, H, W], and the key of the detail score: the query `smoothed`, or as it is.

    Statistics of the guidance give those of both, which are linear maps of it.
    """
    height, moments, smooth_moments = plan.size[0], Moments(pairs=True), Moments(pairs=True)
    held = guidance if plan.keep or not smoothed else plan.kept(guidance, plan.tall, plan.tall + 2)
    for band in bands_of(height, plan.tall):
        if smoothed:
            blurred = _blurred(held, height, *band)
            smooth_moments.add(blurred, blurred.shape[1])
        maps = held(*band)
        moments.add(maps, maps.shape[1])
    weight, bias = moments.norm(norm).then(projection.weight, projection.bias)
    rows = plan.kept(lambda start, stop: pointwise(guidance(start, stop), weight, bias), plan.tall, plan.query_span)
    query = Map(rows, lambda norm: moments.norm(norm, weight, bias))
    if not smoothed:
        return query, query
    # In bands it is blurred again for each row of neighbours, as these may be hundreds of rows apart.
    smooth = plan.kept(partial(_blurred, rows, height), plan.tall)
    return query, Map(smooth, lambda norm: smooth_moments.norm(norm, weight, bias))


def _blurred(rows: Rows, height: int, start: int, stop: int) -> Tensor:
    """Rows of a map, blurred with a 3x3 Gaussian of standard deviation 1 pixel; the border repeats its outer pixels."""
    side = math.exp(-0.5)
    centre, side = 1 / (1 + 2 * side), side / (1 + 2 * side)
    maps = clamped(rows, height, start - 1, stop + 1)
    maps = (centre * maps[:, :, 1:-1]).add_(maps[:, :, :-2], alpha=side).add_(maps[:, :, 2:], alpha=side)
    maps = F.pad(maps, (1, 1, 0, 0), mode="replicate")
    return (centre * maps[..., 1:-1]).add_(maps[..., :-2], alpha=side).add_(maps[..., 2:], alpha=side)
