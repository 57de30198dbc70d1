"""Options that were typed and that nothing would read: an error before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection

from featup_cli.cli.lazy import TYPED
from featup_cli.core.errors import UsageError
from featup_cli.core.options import flat
from featup_cli.upsamplers.registry import METHODS


def refuse_unread(methods: Collection[str], *groups: type, besides: Collection[str] = ()) -> None:
    """Raise UsageError for the first typed option of some groups that none of the methods reads.

    Args:
        methods: names of methods; unknown ones are left to others.
        groups: classes of options, with those that they hold.
        besides: names of options that something else reads.
    """
    for each in (each for group in groups for each in flat(group)):
        reads = each.option.read_by
        if each.name not in TYPED.get() or each.name in besides or reads is None:
            continue
        if not any(name in METHODS and reads(METHODS[name]) for name in methods):
            readers = ", ".join(name for name, method in METHODS.items() if reads(method))
            who = f"method {next(iter(methods))} has" if len(methods) == 1 else f"methods {', '.join(methods)} have"
            raise UsageError(f"{each.flags[0]}: {who} no such setting; omit it, or use one of: {readers}")


def refuse_typed(group: type, names: Collection[str], reason: str) -> None:
    """Raise UsageError with the reason for the first of these options of a group that was typed."""
    for each in flat(group):
        if each.name in names and each.name in TYPED.get():
            raise UsageError(f"{each.flags[0]}: {reason}")
