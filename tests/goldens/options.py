"""Commands and their parameters, read from the application."""

from __future__ import annotations

import inspect
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer.core
import typer.main

from tests.goldens.names import app

# Typer's own, whose kind follows from packages that are installed.
FOREIGN = ("install_completion", "show_completion", "help")
CLICK_NAMES = {"text": "str", "integer": "int", "integer range": "int", "float range": "float", "boolean": "bool"}


def loses_help() -> bool:
    """Whether Click sets the help of arguments to nothing after Typer has set it: an old Typer with a new Click."""
    base = typer.core.TyperArgument.__mro__[1]
    return base.__module__ == "click.core" and "help" in inspect.signature(base.__init__).parameters


def without_help(commands: dict[str, Any]) -> dict[str, Any]:
    """The same record without the help of arguments."""
    for command in commands.values():
        for parameter in command["parameters"]:
            if parameter["kind"] == "argument":
                parameter.pop("help", None)
    return commands


def describe_commands() -> dict[str, Any]:
    """Every command by its full name."""
    root = typer.main.get_command(app)
    return dict(_walk("featup", root, root.make_context("featup", [], resilient_parsing=True)))


def _walk(name: str, command: Any, context: Any) -> list[tuple[str, Any]]:
    parameters = [_describe(parameter) for parameter in command.params if parameter.name not in FOREIGN]
    facts = {"help": command.help, "epilog": command.epilog, "parameters": parameters}
    if not hasattr(command, "list_commands"):
        return [(name, facts)]
    names = command.list_commands(context)
    found = [(name, facts | {"commands": list(names)})]
    for child in names:
        made = command.resolve_command(context, [child])[1]
        found += _walk(f"{name} {child}", made, made.make_context(child, [], parent=context, resilient_parsing=True))
    return found


def _describe(parameter: Any) -> dict[str, Any]:
    kind, choices, low, high = _kind(parameter)
    panel = parameter.rich_help_panel
    facts = {
        "name": parameter.name,
        "kind": parameter.param_type_name,
        "options": list(parameter.opts),
        "secondary": list(parameter.secondary_opts),
        "type": kind,
        "choices": choices,
        "min": low,
        "max": high,
        "required": parameter.required,
        "multiple": parameter.multiple or parameter.nargs == -1,
        "default": _text(parameter.default),
        "help": parameter.help,
        "metavar": parameter.metavar,
        "envvar": parameter.envvar,
        "panel": panel if isinstance(panel, str) else None,
        "show_default": parameter.show_default,
    }
    return {name: fact for name, fact in facts.items() if fact is not None and fact is not False and fact != []}


def _kind(parameter: Any) -> tuple[str, list[str] | None, Any, Any]:
    """Name of the type, its choices, and the least and greatest value, in all versions of Typer alike."""
    kind = getattr(parameter, "type", None)
    if kind is not None:  # Click's types, up to Typer 0.2x
        choices = getattr(kind, "choices", None)
        name = CLICK_NAMES.get(kind.name, kind.name)
        limits = getattr(kind, "min", None), getattr(kind, "max", None)
        return name, choices and [str(_text(choice)) for choice in choices], *limits
    made = parameter.type_descriptor.annotation
    made = get_args(made)[0] if get_args(made) else made
    if issubclass(made, Enum):
        return "choice", [str(choice.value) for choice in made], None, None
    return "path" if issubclass(made, Path) else made.__name__, None, parameter.min, parameter.max


def _text(default: Any) -> str | None:
    """A default as people write it; None for none, which versions of Click say in two ways."""
    if default is None or type(default).__name__ == "Sentinel" or default == ():
        return None
    return str(default.value if isinstance(default, Enum) else default)
