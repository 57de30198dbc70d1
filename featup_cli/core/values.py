"""Values from text: choices in any case and numbers within bounds, each error with the next step."""

from __future__ import annotations

from collections.abc import Iterable

from featup_cli.core.errors import UsageError


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?` with the name that is closest to a text in any case; nothing if none is close."""
    from difflib import get_close_matches

    known = {name.lower(): name for name in names}
    found = get_close_matches(text.lower(), known, 1)
    return f"; did you mean {known[found[0]]}?" if found else ""


def parse_choice(text: str, choices: Iterable[str], before: str = "") -> str:
    """The choice that a text names, in any case.

    Args:
        text: as it was typed.
        choices: all that are allowed.
        before: what stands before the text where it was typed, such as `--method `, for the message.
    Raises:
        UsageError: it is none of them.
    """
    choices = tuple(choices)
    if text in choices:
        return text
    for choice in choices:
        if choice.lower() == text.lower():
            return choice
    raise UsageError(f"{before}{text}: choose from {', '.join(choices)}{did_you_mean(text, choices)}")


def parse_number(
    text: str, kind: type, before: str = "", low: float | None = None, high: float | None = None
) -> int | float:
    """A whole number or a number.

    Args:
        text: as it was typed.
        kind: `int` or `float`.
        before: as for `parse_choice`.
        low, high: inclusive bounds.
    Raises:
        UsageError: it is no number, or out of bounds.
    """
    try:
        value: int | float = kind(text)
    except ValueError:
        raise UsageError(f"{before}{text}: expected {'a whole number' if kind is int else 'a number'}") from None
    bounds = describe_bounds(low, high)
    if bounds and not (low is None or value >= low) & (high is None or value <= high):
        raise UsageError(f"{before}{text}: must be {bounds}")
    return value


def describe_bounds(low: float | None, high: float | None) -> str:
    """Bounds in words; nothing if there are none."""
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else ""
