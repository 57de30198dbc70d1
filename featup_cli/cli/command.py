"""Commands whose options are the fields of dataclasses (`core.options`): typer parses, the command gets the groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
import typer.main

from featup_cli.cli.completion import completer
from featup_cli.cli.config import CONFIG, Settings, load, naming_places
from featup_cli.cli.console import report_errors
from featup_cli.cli.lazy import Command
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.options import GROUP, REQUIRED, Declared, declared
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
        options = [each for kind in groups.values() for each in _options(kind)]
        context = Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context)
        config = _parameter(CONFIG, is_eager=True, callback=load)
        parameters = [context, *(_parameter(each) for each in options), config]

        @report_errors
        @wraps(function)
        def run(ctx: typer.Context, **values: Any) -> None:
            with naming_places(ctx):
                built = {name: _build(kind, values) for name, kind in groups.items()}
                function(**built, **{name: Settings.of(ctx, values) for name in asking})

        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app = typer.Typer(add_completion=False)
        title = "Example" if len(examples) == 1 else "Examples"
        app.command(cls=Command, epilog=f"{title}:  {'  |  '.join(examples)}" if examples else None)(run)
        made = typer.main.get_command(app)
        made.options = [*options, CONFIG]  # type: ignore[attr-defined]  # for settings files and the reference
        return made

    return decorate


def _options(group: type) -> Iterator[Declared]:
    """The options of a group and its nested groups, in order."""
    for each in declared(group):
        if each.option is GROUP:
            yield from _options(each.kind)
        else:
            yield each


def _build(group: type, values: Mapping[str, Any]) -> Any:
    """Build a group from parsed values: choices become strings, repeatable options become tuples.

    Raises:
        UsageError: a required option is missing (typer 0.16 with click 8.3 or newer doesn't see that).
        InputError: a file that is to be read is missing.
    """
    fields = {}
    for each in declared(group):
        if each.option is GROUP:
            fields[each.name] = _build(each.kind, values)
            continue
        value = values[each.name]
        if each.default is REQUIRED and value is None:
            raise UsageError(f"missing {flags_of(each)[0]}")
        if each.option.is_read:
            _check_present(each, value)
        is_tuple = get_origin(each.kind) is tuple
        fields[each.name] = tuple(_plain(part) for part in value or ()) if is_tuple else _plain(value)
    return group(**fields)


def _check_present(each: Declared, value: Any) -> None:
    """Raise InputError for a file that isn't there: now, as it takes seconds to load libraries.

    Of several files the command does those that are there.
    """
    paths = [value] if isinstance(value, Path) else value or []
    if len(paths) == 1 and is_missing(paths[0]):
        name = "" if each.option.positional else f"{flags_of(each)[0]} "
        raise InputError(f"{name}{paths[0]}: no such file")


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _parameter(each: Declared, **more: Any) -> Parameter:
    """An option as a function parameter, which is what typer reads; `more` are arguments of `typer.Option`."""
    option, default, kind = each.option, each.default, each.kind
    if get_origin(kind) in (Union, UnionType):  # the only ones of an option are with None
        kind = next(k for k in get_args(kind) if k is not NoneType)
    repeated = get_origin(kind) is tuple
    if repeated:
        kind = get_args(kind)[0]
    choices = choices_of(each)
    if choices:
        kind = _choice(each.name, choices)
        default = kind(default) if isinstance(default, str) else default
    values = option.suggests or ((lambda: choices) if choices else None)
    if repeated:
        kind, default = GenericAlias(list, (kind,)), (default if default is REQUIRED else list(default) or None)
    facts = {name: getattr(option, name) for name in ("help", "metavar", "min", "max")}
    facts |= {"rich_help_panel": option.panel, "show_default": default not in (None, REQUIRED), **more}
    facts["autocompletion"] = completer(values, option.listed) if values else None
    declaration = typer.Argument(**facts) if option.positional else typer.Option(*flags_of(each), **facts)
    return Parameter(
        each.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if default is REQUIRED else default,
        annotation=Annotated[kind | None if default is None else kind, declaration],
    )


def _choice(name: str, choices: Iterable[str]) -> Any:
    """An Enum: typer before 0.19 knows no Literal."""
    return Enum(name, {choice: choice for choice in choices}, type=str)


def choices_of(each: Declared) -> tuple[str, ...]:
    """The values that an option may have; empty for any."""
    if each.option.choices is not None:
        return tuple(each.option.choices())
    kinds = (each.kind, *get_args(each.kind))
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


def flags_of(each: Declared) -> tuple[str, ...]:
    """What is typed for an option."""
    name = each.name.replace("_", "-")
    is_switch = each.kind in (bool, bool | None) and each.default is not False
    return each.option.flags or (f"--{name}/--no-{name}" if is_switch else f"--{name}",)
