"""Training curves, as a table and as a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from featup_cli.io.atomic import atomic_path
from featup_cli.pictures.panels import FRAME, INK, PAPER

Points = Sequence[tuple[float, float]]
Colour = tuple[int, int, int]

BLUE, ORANGE = (31, 99, 168), (214, 112, 28)
WIDTH, PANEL_HEIGHT = 900, 300
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 44, 40  # margins of a panel
TICKS = 5


@dataclass(frozen=True)
class Row:
    """One evaluation of the held-out pictures.

    Attributes:
        step: steps done.
        loss, error: means over the steps since the last evaluation: the training loss and its squared error.
        explained_variance: share of the held-out views' variance that the upsampler explains; also for bilinear.
        learning_rate: of the upsampler.
        seconds: of training so far.
    """

    step: int
    loss: float
    error: float
    explained_variance: float
    bilinear_explained_variance: float
    learning_rate: float
    seconds: float


def save_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV.

    Raises:
        OutputError: the file can't be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in asdict(row).items()} for row in rows)


def draw_curves(rows: Sequence[Row]) -> np.ndarray:
    """Explained variance of upsampler and bilinear, and below it the loss, over steps: uint8 [H, W, 3]."""
    canvas = Image.new("RGB", (WIDTH, 2 * PANEL_HEIGHT), PAPER)
    draw = ImageDraw.Draw(canvas)
    scores: dict[str, tuple[Colour, Points]] = {
        "upsampler": (BLUE, [(row.step, row.explained_variance) for row in rows]),
        "bilinear": (ORANGE, [(row.step, row.bilinear_explained_variance) for row in rows]),
    }
    _draw_panel(draw, 0, "explained variance of unseen views", scores)
    _draw_panel(draw, PANEL_HEIGHT, "loss", {"loss": (BLUE, [(row.step, row.loss) for row in rows])})
    return np.array(canvas)


def _draw_panel(draw: ImageDraw.ImageDraw, top: int, title: str, lines: dict[str, tuple[Colour, Points]]) -> None:
    font = ImageFont.load_default(14)
    points = [point for _, line in lines.values() for point in line if math.isfinite(point[1])]
    low_x, high_x = 0.0, max((x for x, _ in points), default=1.0)
    low_y, high_y = _span([y for _, y in points])
    left, right, upper, lower = LEFT, WIDTH - RIGHT, top + TOP, top + PANEL_HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - low_x) / (high_x - low_x), (y - low_y) / (high_y - low_y)
        return left + across * (right - left), lower - up * (lower - upper)

    for tick in range(TICKS):
        x, y = (low + (high - low) * tick / (TICKS - 1) for low, high in ((low_x, high_x), (low_y, high_y)))
        across, height = place(x, y)
        draw.line((left, height, right, height), fill=FRAME)
        draw.text((left - 8, height), f"{y:.4g}", fill=INK, font=font, anchor="rm")
        draw.text((across, lower + 8), f"{x:.4g}", fill=INK, font=font, anchor="mt")
    draw.text((left, top + 12), title, fill=INK, font=font)
    legend: float = right
    for name, (colour, line) in reversed(lines.items()):
        places = [place(x, y) for x, y in line if math.isfinite(y)]
        if len(places) == 1:
            ((x, y),) = places
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        draw.line(places, fill=colour, width=2)
        draw.text((legend, top + 12), name, fill=colour, font=font, anchor="ra")
        legend -= font.getlength(name) + 20


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From a little below the lowest value to a little above the highest."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low if high > low else max(abs(high), 1.0))
    return low - margin, high + margin
