"""Where options have their values from: the command line, else a variable, else a settings file, else the default.

A settings file is TOML. Its top-level keys are for every command that has the option, its tables (`[upsample]`,
`[eval.probe]`) for one. `FEATUP_OUTPUT_SIZE` is the variable of `--output-size`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import typer

from featup_cli.cli.console import report_errors
from featup_cli.core.errors import FeatUpError, InputError, UsageError
from featup_cli.core.options import RUN, Declared, declared, option
from featup_cli.core.values import did_you_mean
from featup_cli.io.files import is_missing

FILE = Path("featup.toml")
"""Read if it is in the working folder and no other one is given."""
SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class ConfigOptions:
    """The option that every command has."""

    PANEL = RUN

    config: Path | None = option(
        None,
        "Settings in TOML; flags and FEATUP_ variables go above them (docs/configuration.md). "
        "(default: featup.toml, if there is one here)",
        metavar="FILE",
    )


(CONFIG,) = declared(ConfigOptions)


class Origin(NamedTuple):
    """Where a value comes from: the file or variable, and for messages the place in it."""

    source: str
    place: str


Given = tuple[Declared, Any, Origin]
"""An option with a value that isn't from the command line."""


def key_of(each: Declared) -> str:
    """The name of an option in a settings file: its long flag without dashes."""
    long = next((flag for flag in each.option.flags if flag.startswith("--")), f"--{each.name}")
    return long.split("/")[0][2:].replace("_", "-")


def variable_of(each: Declared) -> str:
    """The environment variable of an option."""
    return f"FEATUP_{key_of(each).upper().replace('-', '_')}"


@report_errors
def load(ctx: typer.Context, value: str | None) -> str | None:
    """Take values from the settings file and from variables: callback of `--config`, before other options.

    Raises:
        Exit: the file is missing, or has something that no command takes.
    """
    if ctx.resilient_parsing:  # the shell completes a word
        return value
    named = value or os.environ.get(variable_of(CONFIG))
    path = Path(named or FILE)
    if named and is_missing(path):
        raise InputError(f"{'--config' if value else variable_of(CONFIG)} {path}: no such file")
    options = _settable(ctx.command)
    found = [*(_from_file(path, ctx, options) if named or path.is_file() else ()), *_from_environment(options)]
    ctx.default_map = {each.name: _as_typed(given) for each, given, _ in found}
    ctx.obj = {each.name: origin for each, _, origin in found}
    return value


def _settable(command: Any) -> dict[str, Declared]:
    """The options of a command by key, without arguments and `--config`."""
    return {key_of(each): each for each in command.options if not each.option.positional and each is not CONFIG}


def _from_environment(options: Mapping[str, Declared]) -> Iterator[Given]:
    for each in options.values():
        name = variable_of(each)
        text = os.environ.get(name)
        if not text or each.option.own:
            continue
        origin = Origin(name, name)
        value: Any = (
            SWITCH.get(text.lower(), text) if each.value is bool else text.split() if each.is_repeated else text
        )
        if each.value is bool:
            _check(bool, value, origin)
        yield each, value, origin


def _from_file(path: Path, ctx: Any, options: Mapping[str, Declared]) -> Iterator[Given]:
    """Values for the command of the context: top-level keys, then those of the tables around its own, then its own."""
    chain, table, title = _chain(ctx), _read(path), ""
    for level, below in zip(chain, [*chain[1:], None], strict=True):
        inner: Any = {}
        names = level.command.list_commands(level) if below else []
        for key, value in table.items():
            name = key.replace("_", "-")
            place = f"{path}: {f'[{title}] ' if title else ''}{key}"
            if below and isinstance(value, dict):
                if name not in names:
                    table_name = f"[{title}.{key}]".replace("[.", "[")
                    raise UsageError(f"{path}: {table_name}: no such command{did_you_mean(name, names)}")
                inner = value if name == below.info_name else inner
            elif name in options:
                if not (below and options[name].option.own):
                    origin = Origin(str(path), place)
                    yield options[name], _checked(options[name], value, origin), origin
            else:
                known = _keys_below(level.command, level) if below else options
                if name not in known:
                    raise UsageError(f"{place}: no such option{did_you_mean(name, known)}")
        if below:
            table, title = inner, f"{title}.{below.info_name}".lstrip(".")


def _chain(ctx: Any) -> list[Any]:
    """The contexts of the program, of a group of commands if there is one, and of the command."""
    return [*(_chain(ctx.parent) if ctx.parent is not None else ()), ctx]


def _read(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: it can't be read.
    """
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib  # type: ignore[import-not-found]
    except ImportError:
        raise InputError(f"{path}: Python 3.10 reads TOML with another package: pip install tomli") from None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise InputError(f"{path}: is not TOML: {error}") from None


def _keys_below(command: Any, ctx: Any) -> set[str]:
    """The keys of all commands in a group. This imports them, so it is asked only for a key that one lacks."""
    if not hasattr(command, "list_commands"):
        return set(_settable(command))
    commands = (command.resolve_command(ctx, [name])[1] for name in command.list_commands(ctx))
    return {key for each in commands for key in _keys_below(each, ctx)}


def _checked(each: Declared, value: Any, origin: Origin) -> Any:
    if each.is_repeated and not isinstance(value, list):
        raise UsageError(f"{origin.place}: expected a list, as in {key_of(each)} = [...]")
    for part in value if each.is_repeated else [value]:
        _check(each.value, part, origin)
    return value


def _check(kind: Any, value: Any, origin: Origin) -> None:
    """Raise UsageError for a value of another type. A number may stand for its text."""
    types: dict[Any, tuple[tuple[type, ...], str]] = {
        bool: ((bool,), "true or false"),
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
        Path: ((str,), "a path in quotes"),
    }
    accepted, expected = types.get(kind, ((str, int, float), "a text in quotes"))
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{origin.place}: expected {expected}, not {_toml(value)}")


def _as_typed(value: Any) -> Any:
    """The value as if typed, where the shell would also have replaced `~`."""
    if isinstance(value, list):
        return [_as_typed(part) for part in value]
    return value if isinstance(value, bool) else os.path.expanduser(str(value))


@contextmanager
def naming_places(ctx: Any) -> Iterator[None]:
    """Add to an error that names flags the places where these have their values from."""
    try:
        yield
    except FeatUpError as error:
        flags = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", str(error)))
        named = [each.name for each in ctx.command.params if flags & {*each.opts, *each.secondary_opts}]
        places = [ctx.obj[name].place for name in named if name in ctx.obj]
        if places:
            error.args = (f"{error} ({'; '.join(places)})",)
        raise


@dataclass(frozen=True)
class Settings:
    """The values of a command's options with their sources.

    Attributes:
        command: the command's name, as the table of a settings file has it.
        values: by key, the value and its source.
    """

    command: str
    values: Mapping[str, tuple[Any, str]]

    @classmethod
    def of(cls, ctx: Any, values: Mapping[str, Any]) -> Settings:
        """The settings of the command that runs, of its parsed values."""
        sources = {}
        for key, each in _settable(ctx.command).items():
            typed = ctx.get_parameter_source(each.name).name == "COMMANDLINE"
            origin = ctx.obj.get(each.name)
            sources[key] = values[each.name], "flag" if typed else origin.source if origin else "default"
        return cls(".".join(each.info_name for each in _chain(ctx)[1:]), sources)

    def toml(self, always: Sequence[str] = (), without: Sequence[str] = ()) -> str:
        """Those that are no defaults as a settings file, each with its source.

        Args:
            always: keys that are shown in any case.
            without: keys that are left out.
        """
        lines = [
            f"{key} = {_toml(value)}  # {source}"
            for key, (value, source) in self.values.items()
            if key not in without and (source != "default" or key in always)
        ]
        return "\n".join([f"[{self.command}]", *lines])


def _toml(value: Any) -> str:
    """A value in TOML; of a table, which is no value of an option, the word."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False)
