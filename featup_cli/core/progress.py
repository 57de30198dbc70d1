"""Progress of long work: functions from the caller, called with plain values."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, steps done, total steps, running score as text)."""

Announce = Callable[[str], None]
"""Called with a sentence for the user."""


def no_progress(stage: str, done: int, total: int, score: str) -> None:
    """Report nothing."""


def no_announcement(text: str) -> None:
    """Say nothing."""
