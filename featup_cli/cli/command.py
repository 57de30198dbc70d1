"""Commands whose options are the fields of dataclasses (`core.options`): typer splits the command line, the values are
parsed here, and the command gets the groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
import typer.main

from featup_cli.cli.completion import completer
from featup_cli.cli.config import CONFIG, Settings, load, naming_places
from featup_cli.cli.console import report_errors
from featup_cli.cli.lazy import Command
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.options import GROUP, REQUIRED, Declared, declared, flat
from featup_cli.core.values import parse_choice, parse_number
from featup_cli.io.files import is_missing


def command(*, examples: Sequence[str] = ()) -> Callable[[Callable[..., None]], Any]:
    """Decorator that turns a function into a click command; each parameter of the function is a group of options.

    The command has the options of all groups, in order, and `--config`. `report_errors` reports its errors, also those
    of the groups. A parameter of the type `Settings` gets the values and where each came from.

    Args:
        examples: command lines that the help shows at its end.
    Raises:
        ValueError: two groups declare a field of the same name.
    """

    def decorate(function: Callable[..., None]) -> Any:
        groups = {name: kind for name, kind in get_type_hints(function).items() if name != "return"}
        asking = [name for name, kind in groups.items() if kind is Settings]
        groups = {name: kind for name, kind in groups.items() if kind is not Settings}
        options = [*(each for kind in groups.values() for each in flat(kind)), CONFIG]

        @report_errors
        @wraps(function)
        def run(context: typer.Context, **given: Any) -> None:
            with naming_places(context):
                values = parse_values(options, given, context.command_path)
                _check(options, values)
                built = {name: _build(kind, values) for name, kind in groups.items()}
                function(**built, **{name: Settings.of(context, values) for name in asking})

        context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
        config = _parameter(CONFIG, is_eager=True, callback=load)
        parameters = [context, *(_parameter(each) for each in options if each is not CONFIG), config]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app = typer.Typer(add_completion=False)
        app.command(cls=Command)(run)
        made: Any = typer.main.get_command(app)
        made.options, made.examples = options, examples
        return made

    return decorate


def _parameter(each: Declared, **more: Any) -> Parameter:
    """An option as a function parameter, which is what typer reads. Its values are text; None is for not given.

    `more` are arguments of `typer.Option`.
    """
    kind: Any = bool if each.value is bool else list[str] if each.is_repeated else str
    facts: dict[str, Any] = {"metavar": each.option.metavar, **more}
    if suggests := each.option.suggests or ((lambda: each.choices) if each.choices else None):
        facts["autocompletion"] = completer(suggests, each.option.listed)
    declaration = typer.Argument(**facts) if each.option.positional else typer.Option(*each.flags, **facts)
    return Parameter(each.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, declaration])


def parse_values(options: Sequence[Declared], given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Values of options by name; those that are not given have their defaults.

    Args:
        options: of the command.
        given: by name: text, a list of texts, a bool, or nothing.
        path: the command as it is called, for messages.
    Raises:
        UsageError: an option that must be given is missing, or a value is not allowed.
    """
    values = {}
    for each in options:
        value = given[each.name]
        if value is None or value in ((), []):
            if each.default is REQUIRED:
                raise UsageError(f"missing {each.title}; see {path} --help")
            values[each.name] = each.default
        else:
            values[each.name] = tuple(_parse(each, text) for text in value) if each.is_repeated else _parse(each, value)
    return values


def _parse(each: Declared, text: Any) -> Any:
    """The value of an option from its text."""
    before = "" if each.option.positional else f"{each.flags[0]} "
    if each.choices:
        return parse_choice(text, each.choices, before)
    if each.value in (int, float):
        return parse_number(text, each.value, before, each.option.min, each.option.max)
    return Path(text) if each.value is Path else text


def _check(options: Sequence[Declared], values: Mapping[str, Any]) -> None:
    """Raise an error for a file to read that isn't there, and as the options' own checks: before libraries are loaded.

    Of several files the command does those that are there.
    """
    for each in options:
        if each.option.check is not None and values[each.name] not in (None, each.default):
            each.option.check(values[each.name])
        value = values[each.name] if each.option.is_read else None
        paths = [value] if isinstance(value, Path) else value or []
        if len(paths) == 1 and is_missing(paths[0]):
            name = "" if each.option.positional else f"{each.flags[0]} "
            raise InputError(f"{name}{paths[0]}: no such file")


def _build(group: type, values: Mapping[str, Any]) -> Any:
    """Build a group from the values of all options."""
    return group(
        **{
            each.name: _build(each.kind, values) if each.option is GROUP else values[each.name]
            for each in declared(group)
        }
    )
