"""What a picture says of itself: titles, scales, and the lines below; and how panels are laid out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageFont

from featup_cli.evaluation.comparison import shared_lines
from featup_cli.pictures.captions import LOW, fitted, method_name, of_basis, picture_lines
from featup_cli.pictures.layout import Panel, Sheet, ends, heat_panel, panel_rows, size_text, wrap
from featup_cli.pictures.panels import MAGMA

TITLES = ("Image", "Low-resolution features, 42 x 14", "Upsampled features, 672 x 224", "Uncertainty (1 = spread)")


def solid(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 200, np.uint8)


def test_a_result_names_its_method_backbone_and_components() -> None:
    backbone = {"name": "dinov2", "layer": 11, "weights_source": "hub"}
    facts = {"method": "jbu", "backbone": backbone, "upsampler": {"source": "folder/mine.safetensors"}}
    assert picture_lines(facts, (4, 5, 6), fitted(LOW)) == [
        "Method jbu (weights mine.safetensors); backbone dinov2, layer 11; "
        "principal components 4, 5, 6 as red, green, blue.",
        "Colours are fitted to the low-resolution features of this picture; those of separate runs can't be compared "
        "(--basis FILE makes them agree).",
    ]
    assert "3 files" in fitted(LOW, 3)
    assert picture_lines({}, (1, 2, 3), of_basis("c.safetensors")) == [
        "Principal components 1, 2, 3 as red, green, blue.",
        "Colours of c.safetensors: all pictures with this basis can be compared.",
    ]
    assert picture_lines({"method": "implicit"}) == ["Method implicit."]
    assert picture_lines({}) == []
    assert method_name("jbu", {"source": "packaged:jbu.safetensors"}) == method_name("jbu", None) == "jbu"
    assert shared_lines({**backbone, "weights_source": "random"}, (224, 336), (448, 672))[0] == (
        "Backbone dinov2, layer 11, untrained; network input 224 x 336; output 448 x 672 (height x width); "
        "principal components 1, 2, 3 as red, green, blue."
    )


@pytest.mark.parametrize("backbone", ["tiny", 3, None, {"name": "a\nb" * 1000, "layer": "x"}, {"layer": 1}])
def test_provenance_that_anybody_may_have_written_makes_short_lines(backbone: Any) -> None:
    facts = {"method": ["a\n", 1], "backbone": backbone, "upsampler": {"source": 5}}
    for line in picture_lines(facts, (1, 2, 3)):
        assert line.isprintable()
        assert len(line) < 250
    assert panel_rows([Panel("A", solid(4, 4))], (4, 4), picture_lines(facts)).ndim == 3


@pytest.mark.parametrize("size", [(600, 200), (32, 32), (200, 1200), (1024, 20), (20, 2000), (427, 640)])
@pytest.mark.parametrize("count", [1, 3, 5, 6, 11])
def test_titles_and_captions_fit_their_columns_in_pictures_of_any_shape(size: tuple[int, int], count: int) -> None:
    given = [Panel(TITLES[i % 4], solid(*size), "0.05 s, 31 MiB", (0.123, 4.56)) for i in range(count)]
    sheet = Sheet(given, size[0])
    assert [cell.panel for row in sheet.rows for cell in row] == given
    assert max(map(len, sheet.rows)) <= 5
    assert max(map(len, sheet.rows)) - len(sheet.rows[-1]) <= len(sheet.rows)
    for cell in (cell for row in sheet.rows for cell in row):
        assert cell.column >= cell.width
        for text in (cell.panel.title, cell.panel.caption):
            assert all(sheet.font.getlength(line) <= cell.column for line in wrap(text, sheet.font, cell.column))
        low, high = map(sheet.font.getlength, ends((0.123, 4.56)))
        assert low + high + 3 * sheet.text < cell.column  # and a bar between them


def test_six_panels_of_a_photograph_are_two_rows_of_three_and_very_wide_ones_go_below_each_other() -> None:
    assert [len(row) for row in Sheet([Panel("A", solid(224, 336))] * 6, 224).rows] == [3, 3]
    assert [len(row) for row in Sheet([Panel("A", solid(224, 336))] * 5, 224).rows] == [5]
    assert [len(row) for row in Sheet([Panel("A", solid(224, 1344))] * 3, 224).rows] == [1, 1, 1]


def test_text_is_wrapped_between_words_and_a_long_word_within() -> None:
    font: Any = ImageFont.load_default(13)
    text = f"Colours of a picture {'x' * 60} of {size_text((14, 21))} tokens"
    lines = wrap(text, font, 100)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\N{NO-BREAK SPACE}", "")
    assert all(font.getlength(line) <= 100 for line in lines)
    assert any("14 x 21" in line for line in lines)
    assert wrap("  ", font, 100) == []


def test_the_scale_of_a_heat_map_is_its_range_in_numbers_that_differ() -> None:
    panel = heat_panel("Uncertainty", torch.tensor([[0.25, 1.5], [0.5, 1.0]]))
    assert panel.scale == (0.25, 1.5)
    assert panel.rgb[0, 0].tolist() == MAGMA[0].tolist()
    assert panel.rgb[0, 1].tolist() == MAGMA[-1].tolist()
    assert ends((0.25, 1.5)) == ("0.25", "1.5")
    assert ends((0.99995, 1.0)) == ("0.99995", "1")
    assert ends((2.0, 2.0)) == ("2", "2")


def test_the_bar_below_a_heat_map_goes_from_dark_to_light() -> None:
    ramp = torch.linspace(0, 1, 224 * 224).reshape(224, 224)
    with_bar = panel_rows([heat_panel("A", ramp)], (224, 224))
    without = panel_rows([Panel("A", heat_panel("A", ramp).rgb)], (224, 224))
    below = with_bar[without.shape[0] - 8 :]
    middle = below[np.abs(below.astype(int) - MAGMA[-1].astype(int)).sum(-1).min(1).argmin()]
    coloured = middle[np.ptp(middle.astype(int), axis=-1) > 20] @ np.array([0.2126, 0.7152, 0.0722])
    assert len(coloured) > 80
    assert all(after >= before - 1 for before, after in pairwise(coloured))
