"""What is written about records is made of them."""

from __future__ import annotations

import pytest

from tools.reference import ROOT, pages


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in pages()))
def test_generated_pages_say_what_the_code_says(page: str) -> None:
    text = {str(path.relative_to(ROOT)): text for path, text in pages().items()}[page]
    assert (ROOT / page).read_text() == text, "run python -m tools.reference"
