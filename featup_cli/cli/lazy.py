"""Commands and groups that import only what they need, so that --help and --version are fast."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from copy import copy
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

from typer.core import TyperCommand, TyperGroup

from featup_cli.cli.config import refusing
from featup_cli.cli.console import report_errors
from featup_cli.core.references import resolve

TYPED: ContextVar[frozenset[str]] = ContextVar("TYPED", default=frozenset())
"""Names of the options on the command line of the command that runs; not those of variables and files."""


class Command(TyperCommand):
    """A command whose help imports no more than it shows, and that knows where its options have their values from."""

    @report_errors
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; an invalid value that isn't of it is one line that says where it stands."""
        with refusing(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        names = (each.name for each in self.params)
        TYPED.set(frozenset(name for name in names if ctx.get_parameter_source(name).name == "COMMANDLINE"))
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        _import_help()
        super().format_help(ctx, formatter)


class Entry(NamedTuple):
    """A command: its location (`package.module:name`) and its help."""

    home: str
    about: str


class LazyGroup(TyperGroup):
    """The commands of `table`; listing them, completing their names and suggesting one imports none of them."""

    table: ClassVar[Mapping[str, Entry]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, entry in self.table.items():
            self.add_command(TyperCommand(name, help=entry.about))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        _import_help()
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command.

        If there are none, their defaults aren't converted: typer imports pydantic for that, which takes longer than
        everything else in `featup COMMAND --help`.
        """
        parser = copy(self)
        if args and args[0] in self.table:
            parser.params, parser.add_help_option = [], False
        return super(LazyGroup, parser).parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and remaining arguments; imports the command.

        Raises:
            UsageError (of click): no such command.
        """
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name is not None:
            command = resolve(self.table[name].home)
            command.help = self.table[name].about
        return name, command, rest


def _import_help() -> None:
    """Import what typer prints help with, less Markdown and tracebacks: half of the time, and never used here."""
    absent = [name for name in ("rich.markdown", "rich.traceback") if name not in sys.modules]
    for name in absent:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update({n: type(n, (), {}) for n in ("Markdown", "Traceback")})
    try:
        import_module("typer.rich_utils")
    finally:
        for name in absent:
            del sys.modules[name]
