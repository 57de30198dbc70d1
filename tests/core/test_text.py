"""Numbers as people write them."""

from __future__ import annotations

import pytest

from featup_cli.core.text import counted, number_text


def test_nouns_agree_with_their_number() -> None:
    texts = [counted(n, "crop") for n in (0, 1, 2048, 12345)]
    assert texts == ["0 crops", "1 crop", "2048 crops", "12,345 crops"]


@pytest.mark.parametrize(("value", "text"), [(150.0, "150"), (0.5, "0.500"), (-2.0, "-2"), (float("nan"), "nan")])
def test_whole_numbers_have_no_decimals(value: float, text: str) -> None:
    assert number_text(value) == text
