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

from featup_cli.core.errors import UsageError
from featup_cli.core.progress import Progress
from featup_cli.evaluation.retrieval import cosine_similarity
from featup_cli.evaluation.source import FeatureSource
from featup_cli.pictures.panels import heatmap, overlay, panel_size, resize_rgb, side_by_side

Point = tuple[int, int]
Size = tuple[int, int]


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


def find_matches(
    source: FeatureSource,
    picture: Path,
    target: Path,
    points: Sequence[Point],
    methods: Sequence[str],
    progress: Progress,
) -> Matches:
    """Compare the feature at each point with those of the target, at the sizes of the network's inputs.

    Features of one picture and method are held at a time; heat maps of a point share one scale over all methods.

    Args:
        points: (x, y) in pixels of `picture`, from its upper left corner.
    Raises:
        InputError: a picture can't be used; UsageError: a point outside.
    """
    first, second = source.look(picture), source.look(target)
    height, width = first.picture.size
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(f"--at {x},{y}: lies outside {picture.name}, which has {width} x {height} pixels (x,y)")
    maps: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for number, method in enumerate(methods):
        progress("methods", number, len(methods), method)
        features, took = source.features(method, first, first.network_size)
        rows, cols = (
            torch.tensor([int((p[axis] + 0.5) * into / of) for p in points])
            for axis, of, into in ((1, height, features.shape[1]), (0, width, features.shape[2]))
        )
        queries = features[:, rows, cols].T.contiguous()
        del features
        features, more = source.features(method, second, second.network_size)
        maps[method] = cosine_similarity(queries, features).cpu()
        seconds[method] = took + more
        del features
    progress("methods", len(methods), len(methods), "")

    shown, records = [], []
    for number, point in enumerate(points):
        of_point = {method: maps[method][number] for method in methods}
        low = min(float(m.min()) for m in of_point.values())
        high = max(float(m.max()) for m in of_point.values())
        panel = panel_size(second.network_size)
        panels = [
            (f"Query at {point[0]}, {point[1]}", _mark(first.picture.pixels, point, panel_size(first.network_size)))
        ]
        captions = [""]
        for method, similarity in of_point.items():
            match = _best(similarity, second.picture.size)
            best = float(similarity.max())
            heat = overlay(heatmap(similarity, low, high), second.picture.pixels, 0.6)
            panels.append((method, _mark(heat, match, panel)))
            captions.append(f"{best:.3f} at {match[0]}, {match[1]}")
            records.append(
                {"method": method, "at": list(point), "match": list(match), "similarity": best,
                 "seconds": seconds[method]}
            )  # fmt: skip
        shown.append(side_by_side(panels, panel[0], captions))
    widest = max(row.shape[1] for row in shown)
    padded = [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in shown]
    return Matches(np.concatenate(padded), records)


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
