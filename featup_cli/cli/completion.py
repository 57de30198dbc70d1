"""What the shell offers for the value of an option. `featup --install-completion` sets the shell up."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def completer(values: Callable[[], Iterable[str]], listed: bool) -> Callable[[str], list[str]]:
    """A function from the start of a value to the values that begin so; without any, shells offer files.

    Args:
        values: returns all values.
        listed: several are given with commas between them; those before the last comma stay.
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, start = incomplete.rpartition(",") if listed else ("", "", incomplete)
        taken = before.split(",")
        found = (value for value in values() if value.startswith(start) and value not in taken)
        return [before + comma + value for value in found]

    return complete
