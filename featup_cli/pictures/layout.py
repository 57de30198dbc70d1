"""Titled panels in rows on white, each heat map with its scale, and lines that explain the picture below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from featup_cli.core.errors import ShapeError
from featup_cli.core.shapes import Size
from featup_cli.pictures.panels import FAINT, FRAME, INK, MAX_WIDTH, PAPER, Colours, heatmap, panel_size, resize_rgb

MOST_COLUMNS = 5
WIDEST_ROW = 10  # times as wide as high; wider panels go below each other
LEAST_COLUMN, LEAST_BAR, LEAST_FOOT = 9, 4, 20  # widths in letter heights: of a column, a colour bar, lines below
NO_BREAK = "\N{NO-BREAK SPACE}"
UNCERTAINTY = "Uncertainty (1 = spread of all features)"
SALIENCY, KERNELS = (
    "Saliency (factor of the weight kernel)",
    ("Weight kernel (logit per saliency)", "Bias kernel (logit)"),
)


class Panel(NamedTuple):
    """A titled picture.

    Attributes:
        title: above it.
        rgb: uint8 [H, W, 3].
        caption: below it.
        scale: the values that the darkest and the lightest colour of a heat map stand for.
        framed: shows the scene, at the size of the other maps; a kernel doesn't.
    """

    title: str
    rgb: np.ndarray
    caption: str = ""
    scale: tuple[float, float] | None = None
    framed: bool = True


def heat_panel(title: str, values: Tensor, framed: bool = True) -> Panel:
    """A map [h, w] from dark (its least value) to light (its greatest), with this scale."""
    low, high = map(float, values.aminmax())
    return Panel(title, heatmap(values, low, high), scale=(low, high), framed=framed)


def feature_panels(colours: Colours, lr_features: Tensor | None, features: Tensor, size: Size) -> list[Panel]:
    """Titled pictures of low-resolution features, if there are any, and of upsampled ones of `size`.

    `features` may be a reduced copy.
    """
    panels = []
    if lr_features is not None:
        grid = (lr_features.shape[1], lr_features.shape[2])
        panels.append(Panel(f"Low-resolution features, {size_text(grid)}", colours.picture(lr_features)))
    return [*panels, Panel(f"Upsampled features, {size_text(size)}", colours.picture(features))]


def size_text(size: Size) -> str:
    """(height, width) for a title, which does not break there."""
    return f"{size[0]}{NO_BREAK}x{NO_BREAK}{size[1]}"


def panel_rows(panels: Sequence[Panel], frame: Size, lines: Sequence[str] = ()) -> np.ndarray:
    """`side_by_side`, all maps of the scene at exactly the same size so that they can be compared by eye."""
    size = panel_size(frame)
    fitted = [panel._replace(rgb=resize_rgb(panel.rgb, size)) if panel.framed else panel for panel in panels]
    return side_by_side(fitted, size[0], lines)


def wrap(text: str, font: Any, width: float) -> list[str]:
    """Text in lines of at most `width` pixels, broken between words, and within a word only if it is wider."""
    lines = [""]
    for word in filter(None, text.split(" ")):
        word = word.replace(NO_BREAK, " ")  # for which fonts need not have a sign
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines if lines[0] else []


def side_by_side(panels: Sequence[Panel], height: int | None = None, lines: Sequence[str] = ()) -> np.ndarray:
    """Titled panels on white, in as few rows as keep each short, and these of equal length; `lines` below all of them.

    Args:
        panels: smaller ones are enlarged without smoothing.
        height: of every panel in pixels; by default that of the tallest, within limits.
        lines: sentences below the panels; long ones are wrapped.
    Returns:
        uint8 [H', W', 3].
    """
    if not panels:
        raise ShapeError("side_by_side needs at least one panel")
    if height is None:
        height = panel_size(max((p.rgb.shape[:2] for p in panels), key=lambda size: size[0]))[0]
    sheet = Sheet(panels, height)
    return sheet.draw(lines)


class Cell(NamedTuple):
    """A panel, its width, and the width of its column, which may be that of its text."""

    panel: Panel
    width: int
    column: int


class Sheet:
    """Where panels, titles and lines go; lengths in pixels."""

    def __init__(self, panels: Sequence[Panel], height: int) -> None:
        self.height = height
        widths = [min(max(round(p.rgb.shape[1] * height / p.rgb.shape[0]), 1), MAX_WIDTH) for p in panels]
        # Of portrait panels the width counts too, or their titles would take many lines.
        scenes = [width for panel, width in zip(panels, widths, strict=True) if panel.framed] or widths
        self.text = min(max(round(min(height, (height * max(scenes)) ** 0.5) * 0.055), 13), 30)
        self.font: Any = ImageFont.load_default(self.text)
        self.line, self.margin = round(self.text * 1.4), self.text
        # Maps of the scene have columns of one width, so that they are aligned in all rows.
        scene = max((self._needed(panel) for panel in panels if panel.framed), default=0)
        cells = [
            Cell(panel, width, max(width, scene if panel.framed else self._needed(panel)))
            for panel, width in zip(panels, widths, strict=True)
        ]
        ways = [self._rows(cells, most) for most in range(1, MOST_COLUMNS + 1)]
        self.rows = next(rows for rows in ways if len(rows) == len(ways[-1]))

    def _needed(self, panel: Panel) -> int:
        """Width of a column that panel text asks for: the text's own, but no more than reads well when wrapped."""
        text = max(self.font.getlength(panel.title), self.font.getlength(panel.caption))
        bar = sum(map(self.font.getlength, ends(panel.scale))) + (LEAST_BAR + 1) * self.text if panel.scale else 0
        return round(max(min(text, LEAST_COLUMN * self.text), bar))

    def _rows(self, cells: Sequence[Cell], most: int) -> list[list[Cell]]:
        """Cells in rows of at most so many that are not too wide."""
        rows: list[list[Cell]] = [[]]
        for cell in cells:
            width = sum(each.column for each in (*rows[-1], cell))
            if rows[-1] and (len(rows[-1]) == most or width > WIDEST_ROW * self.height):
                rows.append([])
            rows[-1].append(cell)
        return rows

    def draw(self, lines: Sequence[str]) -> np.ndarray:
        """Everything, with `lines` below: uint8 [H', W', 3]."""
        small: Any = ImageFont.load_default(max(round(self.text * 0.8), 12))
        width = max(sum(cell.column for cell in row) + self.margin * (len(row) - 1) for row in self.rows)
        width = max(width, LEAST_FOOT * self.text) if lines else width
        foot = [part for line in lines for part in wrap(line, small, width)]
        step = round(small.size * 1.4)
        bands = [self._heights(row) for row in self.rows]
        total = sum(above + self.height + below + self.margin for above, below in bands) + self.margin // 2
        full = total + (self.margin // 2 + step * len(foot) if foot else 0)
        canvas = Image.new("RGB", (width + 2 * self.margin, full), PAPER)
        top = self.margin // 2
        for row, (above, below) in zip(self.rows, bands, strict=True):
            self._draw_row(canvas, row, top + above)
            top += above + self.height + below + self.margin
        for number, part in enumerate(foot):
            ImageDraw.Draw(canvas).text((self.margin, top + step * number), part, fill=FAINT, font=small)
        return np.array(canvas)

    def _heights(self, row: Sequence[Cell]) -> tuple[int, int]:
        """Room above the panels of a row, and below them."""
        titles = max(len(wrap(cell.panel.title, self.font, cell.column)) for cell in row)
        captions = max(len(wrap(cell.panel.caption, self.font, cell.column)) for cell in row)
        bars = any(cell.panel.scale for cell in row)
        under = self.text // 2 if captions or bars else 0
        return self.line * titles + self.text // 4, under + self.line * (captions + bars)

    def _draw_row(self, canvas: Image.Image, row: Sequence[Cell], top: int) -> None:
        draw, left, bottom = ImageDraw.Draw(canvas), self.margin, top + self.height
        bars = any(cell.panel.scale for cell in row)
        for panel, width, column in row:
            title = wrap(panel.title, self.font, column)
            for number, part in enumerate(title):
                y = top - self.text // 4 - self.line * (len(title) - number)
                draw.text((left, y), part, fill=INK, font=self.font)
            canvas.paste(Image.fromarray(resize_rgb(panel.rgb, (self.height, width))), (left, top))
            # A hairline keeps white panels apart from the paper.
            draw.rectangle((left - 1, top - 1, left + width, bottom), outline=FRAME)
            y = bottom + self.text // 2
            if panel.scale:
                self._draw_scale(canvas, panel.scale, (left, y), max(width, self._needed(panel)))
            for number, part in enumerate(wrap(panel.caption, self.font, column)):
                draw.text((left, y + self.line * (number + bars)), part, fill=INK, font=self.font)
            left += column + self.margin

    def _draw_scale(self, canvas: Image.Image, scale: tuple[float, float], at: tuple[int, int], width: int) -> None:
        """A colour bar between the numbers of its ends."""
        draw, (left, y), (low, high) = ImageDraw.Draw(canvas), at, ends(scale)
        start = left + round(self.font.getlength(low)) + self.text // 2
        end = left + width - round(self.font.getlength(high)) - self.text // 2
        bar = heatmap(torch.linspace(*scale, end - start).expand(self.text, -1), *scale)
        draw.text((left, y), low, fill=INK, font=self.font)
        draw.text((end + self.text // 2, y), high, fill=INK, font=self.font)
        canvas.paste(Image.fromarray(bar), (start, y + self.text // 8))


def ends(scale: tuple[float, float]) -> tuple[str, str]:
    """The numbers at the ends of a colour bar, with as many digits as tell them apart."""
    texts = [(f"{scale[0]:.{digits}g}", f"{scale[1]:.{digits}g}") for digits in range(3, 10)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[0])
