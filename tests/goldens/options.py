"""Commands and what they declare, read from the application."""

from __future__ import annotations

from typing import Any

import typer.main

from featup_cli.core.options import REQUIRED
from tests.goldens.names import app

# Typer's own, whose kind follows from packages that are installed.
FOREIGN = ("install_completion", "show_completion", "help")


def describe_commands() -> dict[str, Any]:
    """Every command by its full name."""
    root = typer.main.get_command(app)
    return dict(_walk("featup", root, root.make_context("featup", [], resilient_parsing=True)))


def _walk(name: str, command: Any, context: Any) -> list[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        facts = {"help": command.help, "examples": list(command.examples)}
        return [(name, facts | {"parameters": [_describe(each) for each in command.options]})]
    own = [
        {"name": each.name, "options": list(each.opts), "help": each.help}
        for each in command.params
        if each.name not in FOREIGN
    ]
    names = command.list_commands(context)
    facts = {"help": command.help, "epilog": command.epilog, "examples": list(command.examples), "parameters": own}
    found = [(name, facts | {"commands": list(names)})]
    for child in names:
        made = command.resolve_command(context, [child])[1]
        found += _walk(f"{name} {child}", made, made.make_context(child, [], parent=context, resilient_parsing=True))
    return found


def _describe(each: Any) -> dict[str, Any]:
    option = each.option
    pairs = [flag.split("/") for flag in each.flags]
    facts = {
        "name": each.name,
        "kind": "argument" if option.positional else "option",
        "options": [each.name] if option.positional else [pair[0] for pair in pairs],
        "secondary": [] if option.positional else [flag for pair in pairs for flag in pair[1:]],
        "type": "choice" if each.choices else each.value.__name__.lower(),
        "choices": list(each.choices),
        "min": option.min,
        "max": option.max,
        "required": each.default is REQUIRED,
        "multiple": each.is_repeated,
        "default": None if each.default in (None, REQUIRED, ()) else str(each.default),
        "help": option.help,
        "metavar": option.metavar,
        "panel": option.panel,
        "common": option.common,
    }
    return {name: fact for name, fact in facts.items() if fact is not None and fact is not False and fact != []}
