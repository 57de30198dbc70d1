"""Numbers in messages for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 picture`, `2048 pictures`, `10,000 pictures`."""
    return f"{number if number < 10_000 else f'{number:,}'} {noun}{'' if number == 1 else 's'}"


def number_text(value: float, form: str = ".3f") -> str:
    """A number in that form; a whole one, such as a count among scores, without decimals."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:{form}}"
