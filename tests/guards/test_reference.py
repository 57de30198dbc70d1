"""What is written about records is made of them."""

from __future__ import annotations

import pytest

from tools.reference import MARK, ROOT, pages


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in pages()))
def test_generated_pages_say_what_the_code_says(page: str) -> None:
    text = {str(path.relative_to(ROOT)): text for path, text in pages().items()}[page]
    assert (ROOT / page).read_text() == text, "run python -m tools.reference"


def test_tables_in_other_pages_are_generated_too() -> None:
    others = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    marks = {path: path.read_text().count("<!-- reference: ") for path in others}
    # A mark without an end is no mark to `tools.reference`, which would leave its table as it is.
    assert {path: len(MARK.findall(path.read_text())) for path in others} == marks
    assert {path for path, count in marks.items() if count} == pages().keys() & set(others)
    assert marks[ROOT / "README.md"]
