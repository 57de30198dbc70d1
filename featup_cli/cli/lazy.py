"""Commands and groups that import only what they need, so that --help and --version are fast."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from copy import copy
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from featup_cli.cli.console import EXIT_INTERRUPTED, ClickException, usage_line
from featup_cli.cli.help import HELP, HELP_ALL, command_help, group_help
from featup_cli.core.options import Declared
from featup_cli.core.references import resolve
from featup_cli.core.values import did_you_mean

_ALL = "featup_cli.help_all"
TYPED: ContextVar[frozenset[str]] = ContextVar("TYPED", default=frozenset())
"""Names of the options on the command line of the command that runs; not those of variables and files."""


class _Shown:
    """What commands and groups share: help in two columns, and errors of usage as one line."""

    examples: Sequence[str] = ()

    def get_help_option_names(self, ctx: Any) -> list[str]:
        """What is typed for the help."""
        return [*HELP, HELP_ALL]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        ctx.meta[_ALL] = HELP_ALL in args
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]
        except ClickException as error:
            error.ctx = ctx  # which some of them lack
            raise

    def main(self, *args: Any, standalone_mode: bool = True, **settings: Any) -> Any:
        """Run as a program, or with `standalone_mode=False` as a function."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **settings)  # type: ignore[misc]
        try:
            status = super().main(*args, standalone_mode=False, **settings)  # type: ignore[misc]
        except ClickException as error:
            typer.echo(usage_line(error), err=True)
            status = error.exit_code
        except typer.Abort:
            typer.echo("interrupted", err=True)
            status = EXIT_INTERRUPTED
        sys.exit(status or 0)


class Command(_Shown, TyperCommand):
    """A command, which knows what was typed; `options` are what it declares."""

    options: Sequence[Declared] = ()

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        names = (each.name for each in self.params)
        TYPED.set(frozenset(name for name in names if ctx.get_parameter_source(name).name == "COMMANDLINE"))
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(command_help(ctx.command_path, self, everything=ctx.meta.get(_ALL, False)))


class Entry(NamedTuple):
    """A command: its location (`package.module:name`) and its help."""

    home: str
    about: str


class LazyGroup(_Shown, TyperGroup):
    """The commands of `table`; listing them, completing their names and suggesting one imports none of them."""

    table: ClassVar[Mapping[str, Entry]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, entry in self.table.items():
            self.add_command(TyperCommand(name, help=entry.about))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(group_help(ctx.command_path, self))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command; without anything, show the help.

        If there are none, their defaults aren't converted: typer imports pydantic for that, which takes longer than
        everything else in `featup COMMAND --help`.
        """
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(2)
        parser = copy(self)
        if args and args[0] in self.table:
            parser.params, parser.add_help_option = [], False
        return super(LazyGroup, parser).parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and remaining arguments; imports the command.

        Raises:
            UsageError (of click): no such command.
        """
        if args[0] not in self.table and not ctx.resilient_parsing:
            ctx.fail(f"{args[0]}: no such command{did_you_mean(args[0], self.table)}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name is not None:
            command = resolve(self.table[name].home)
            command.help = self.table[name].about
        return name, command, rest
