"""Matches of points of one picture in another, method by method, as one picture: FeatUp, figure 15."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.core.checks import checked
from featup_cli.core.errors import UsageError
from featup_cli.core.shapes import Size
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.retrieval.scorer import cosine_similarity
from featup_cli.evaluation.run import Evaluation
from featup_cli.evaluation.source import Request
from featup_cli.pictures.captions import backbone_name, method_name
from featup_cli.pictures.layout import Panel, side_by_side
from featup_cli.pictures.panels import heatmap, overlay, panel_size, resize_rgb

Point = tuple[int, int]


@dataclass(frozen=True)
class Matches:
    """Where points of one picture are found in another.

    Attributes:
        rgb: uint8 [H, W, 3]: a row for each point; the picture with the point, then a panel for each method.
        rows: `method`, `at` and `match` (x, y) in pixels of the pictures, `similarity`, `seconds` (of the method for
            both pictures), as JSON values.
    """

    rgb: np.ndarray
    rows: list[dict[str, Any]]


@checked
def find_matches(
    image: Any,
    target: Any,
    points: Sequence[Point],
    *,
    methods: str | Sequence[str] = "fast",
    backbone: str | BackboneConfig | Backbone = "tiny",
    **options: Any,
) -> Matches:
    """Find points of a picture in another one: what `featup eval retrieval SOURCE TARGET --at X,Y` does, in memory.

    The feature at each point is compared with those of the target, at the sizes of the network's inputs. Features of
    one picture and method are held at a time; heat maps of a point share one scale over all methods.

    Args:
        image, target: two pictures, in any form that `upsample` takes.
        points: (x, y) in pixels of `image`, from its upper left corner.
        methods, backbone: as for `evaluate`.
        options: other fields of `evaluation.source.Request`: `resize`, `implicit`, `device`, `progress`, ...
    Raises:
        InputError: a picture can't be used; UsageError: a point outside.

    Example:
        >>> import tempfile, numpy as np, featup_cli as featup
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> noise = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
        >>> Image.fromarray(noise[:, :64]).save(f"{folder.name}/a.png")
        >>> Image.fromarray(noise[:, 16:]).save(f"{folder.name}/b.png")  # one token further left
        >>> pair, asked = (f"{folder.name}/a.png", f"{folder.name}/b.png"), {"resize": 48, "device": "cpu"}
        >>> found = featup.find_matches(*pair, [(40, 24)], methods="nearest", **asked)
        >>> [(row["method"], row["at"], row["match"]) for row in found.rows]
        [('nearest', [40, 24], [23, 23])]
    """
    evaluation = Evaluation(Request(methods, backbone, **options))
    first, second = evaluation.source.look(image), evaluation.source.look(target)
    height, width = first.picture.size
    if not points:
        raise UsageError("points: give at least one (x, y)")
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            name = Path(first.picture.source).name or "the image"
            raise UsageError(f"--at {x},{y}: lies outside {name}, which has {width} x {height} pixels (x,y)")
    maps, seconds = _similarities(evaluation, first, second, points)
    shown, records = [], []
    for number, point in enumerate(points):
        of_point = {method: of_method[number] for method, of_method in maps.items()}
        low, high = (float(f(torch.stack(list(of_point.values())))) for f in (torch.min, torch.max))
        panel = panel_size(second.plan.network)
        query = _mark(first.picture.pixels, point, panel_size(first.plan.network))
        panels = [Panel(f"Query at {point[0]}, {point[1]}", query)]
        for method, similarity in of_point.items():
            match = _best(similarity, second.picture.size)
            best = float(similarity.max())
            heat = overlay(heatmap(similarity, low, high), second.picture.pixels, 0.6)
            title = method_name(method, evaluation.source.describe_method(method)["upsampler"])
            caption = f"{best:.3f} at {match[0]}, {match[1]}"
            panels.append(Panel(title, _mark(heat, match, panel), caption, scale=(low, high)))
            records.append(
                {"method": method, "at": list(point), "match": list(match), "similarity": best,
                 "seconds": seconds[method]}
            )  # fmt: skip
        shown.append(side_by_side(panels, panel[0], _lines(evaluation, second) if number == len(points) - 1 else ()))
    widest = max(row.shape[1] for row in shown)
    padded = [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in shown]
    return Matches(np.concatenate(padded), records)


def _lines(evaluation: Evaluation, target: Look) -> list[str]:
    """Lines below the panels: what all of them share."""
    backbone, size = backbone_name(evaluation.source.backbone.describe()), target.plan.network
    return [
        f"Backbone {backbone}; features of {size[0]} x {size[1]} (height x width).",
        "Scales give the cosine similarity to the feature at the query, the same for all methods, over the picture.",
    ]


def _similarities(
    evaluation: Evaluation, first: Look, second: Look, points: Sequence[Point]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Of each method, similarities [points, H, W] of `second` to the features at the points of `first`, and seconds."""
    source, maps, seconds = evaluation.source, {}, {}
    for method in evaluation.each("methods", evaluation.methods):
        features, took = source.features(method, first, first.plan.network)
        rows, cols = (
            torch.tensor([int((point[1 - axis] + 0.5) * into / of) for point in points])
            for axis, (of, into) in enumerate(zip(first.picture.size, features.shape[1:], strict=True))
        )
        queries = features[:, rows, cols].T.contiguous()
        del features
        features, more = source.features(method, second, second.plan.network)
        maps[method] = cosine_similarity(queries, features).cpu()
        seconds[method] = took + more
        del features
    return maps, seconds


def _best(similarity: Tensor, size: Size) -> Point:
    """The most similar position of a map [H, W], as (x, y) in pixels of a picture of `size`.

    Of several that are equal, such as the pixels of one copied token, the one nearest to their centre.
    """
    rows, cols = (similarity >= similarity.max() - 1e-6).nonzero().double().unbind(1)
    nearest = int(((rows - rows.mean()).square() + (cols - cols.mean()).square()).argmin())
    height, width = similarity.shape
    y, x = (float(rows[nearest]) + 0.5) * size[0] / height, (float(cols[nearest]) + 0.5) * size[1] / width
    return int(x), int(y)


def _mark(rgb: np.ndarray, point: Point, size: Size) -> np.ndarray:
    """A cross at `point` (x, y) of a picture uint8 [H, W, 3], shown at `size` (height, width)."""
    image = Image.fromarray(resize_rgb(rgb, size))
    x, y = (point[0] + 0.5) * size[1] / rgb.shape[1], (point[1] + 0.5) * size[0] / rgb.shape[0]
    reach = max(size[0] // 30, 5)
    draw = ImageDraw.Draw(image)
    for colour, width in (((255, 255, 255), 5), ((220, 30, 30), 3)):
        for sign in (-1, 1):
            draw.line([(x - reach, y - sign * reach), (x + reach, y + sign * reach)], fill=colour, width=width)
    return np.array(image)
