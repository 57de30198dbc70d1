"""Registered records: those of this package, and those that other packages add by an entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Protocol, TypeVar


class Record(Protocol):
    """Something that is declared once, by name."""

    @property
    def name(self) -> str:
        """The name by which it is chosen."""


R = TypeVar("R", bound=Record)


def collect(own: Iterable[R], group: str, kind: type[R]) -> dict[str, R]:
    """Records by name: our own, then those that installed packages declare.

    Another package adds one without a change here:

        [project.entry-points."featup.methods"]
        mine = "my_package.method:METHOD"

    A record that can't be loaded, is of another kind, or has a name that is taken is skipped with a warning on stderr,
    so that the others keep working.

    Args:
        own: the package's records.
        group: name of the entry points, as `featup.methods`.
        kind: class of the records.
    """
    records = {record.name: record for record in own}
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    for point in entry_points(group=group):
        try:
            found = point.load()
            problem = "" if isinstance(found, kind) else f"is not {article} {kind.__name__}"
        except Exception as error:  # anybody's code may raise anything
            problem = f"can't be loaded ({type(error).__name__}: {error})"
        if not problem and found.name in records:
            problem = f"has the name {found.name}, which is taken"
        if problem:
            print(f"warning: {group} {point.value} {problem}; skipped", file=sys.stderr)
        else:
            records[found.name] = found
    return records
