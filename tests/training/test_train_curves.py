from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from featup_cli.training.curves import BLUE, ORANGE, Row, draw_curves, save_table


def row(step: int, score: float = 0.5, loss: float = 1.0) -> Row:
    return Row(step, loss, 0.5, score, 0.4, 1e-3, 2.0)


def test_the_table_has_a_line_for_each_look(tmp_path: Path) -> None:
    save_table(tmp_path / "curves.csv", [row(10), row(20, 0.61)])
    with (tmp_path / "curves.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["step"] for line in lines] == ["10", "20"]
    assert float(lines[1]["explained_variance"]) == 0.61
    assert set(lines[0]) == {
        "step", "loss", "error", "explained_variance", "bilinear_explained_variance", "learning_rate", "seconds",
    }  # fmt: skip


@pytest.mark.parametrize("rows", [[row(5)], [row(5), row(10)], [row(5, math.nan), row(10, -3.0)]], ids=len)
def test_curves_are_drawn_of_any_number_of_looks(rows: list[Row]) -> None:
    picture = draw_curves(rows)
    for colour in (BLUE, ORANGE):
        assert (picture == np.array(colour)).all(-1).sum() > 10


def test_a_higher_score_is_drawn_higher() -> None:
    picture = draw_curves([row(1, 0.5), row(2, 0.9)])
    blue = (picture[44:260] == np.array(BLUE)).all(-1)
    rows_of = [np.flatnonzero(blue[:, x]).mean() for x in np.flatnonzero(blue.any(0))]
    assert rows_of[-1] < rows_of[0] - 100
