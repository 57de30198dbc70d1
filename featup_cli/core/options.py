"""Declare fields of a dataclass as command-line options; nothing here parses them.

    @dataclass(frozen=True)
    class BlurConfig:
        sigma: float = option(1.0, "Standard deviation in pixels.", min=0)
        passes: int = 1                               # a setting, but no option

An option of type `tuple[X, ...]` can be repeated. Python users see fields with defaults, as in any dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

GivenType = TypeVar("GivenType", bound="Given")

INPUT, BACKBONE, METHOD, OUTPUT, RUN = "Input", "Backbone", "Method", "Output", "Run"
"""Headings of the help."""

REQUIRED: Any = MISSING
"""The default of an option that must be given."""


@dataclass(frozen=True)
class Option:
    """The command-line facts of a field beyond its name, type and default.

    Attributes:
        help: the help text.
        flags: such as `--backbone` and `-b`. Without any: `--name`, or `--name/--no-name` for a bool that isn't False
            by default.
        panel: heading in the help; without one, the attribute `PANEL` of the class.
        metavar: placeholder for the value in the help.
        min, max: inclusive bounds of a number.
        choices: returns the allowed values of a string; not needed for a `Literal`.
        suggests: returns values that the shell offers, of a string that may have others too.
        listed: several of these can be given, with commas between them.
        positional: an argument instead of an option.
        own: it means something else than in other commands, or is a fact of the input. So of a settings file only the
            command's table gives it, and no variable does.
        is_read: the path of a file that is read. One that is missing is an error before anything else is done.
        check: raises an error for a text that is invalid, before anything else is done.
        common: the help shows it at once. Of a command with many options, the others need `--help-all`.
        read_by: tells of the record of a method whether it reads the option; without one, the class's own attribute
            `READ_BY`; None for an option that doesn't depend on methods.
    """

    help: str
    flags: tuple[str, ...] = ()
    panel: str | None = None
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    choices: Callable[[], Iterable[str]] | None = None
    suggests: Callable[[], Iterable[str]] | None = None
    listed: bool = False
    positional: bool = False
    own: bool = False
    is_read: bool = False
    check: Callable[[str], None] | None = None
    common: bool = False
    read_by: Callable[[Any], bool] | None = None


GROUP = Option("")
"""Marks a field that holds a group; the group's options stand in its place."""


@dataclass(frozen=True)
class Declared:
    """A field as its class declares it."""

    name: str
    kind: Any
    default: Any
    option: Option

    @property
    def is_repeated(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.kind) is tuple

    @property
    def value(self) -> Any:
        """The type of a value that is given: without None, and of a tuple that of its elements."""
        kind = self.kind
        if get_origin(kind) in (Union, UnionType):  # the only unions of an option are with None
            kind = next(each for each in get_args(kind) if each is not NoneType)
        return get_args(kind)[0] if self.is_repeated else kind

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it may have; empty for any."""
        if self.option.choices is not None:
            return tuple(self.option.choices())
        return get_args(self.value) if get_origin(self.value) is Literal else ()

    @property
    def flags(self) -> tuple[str, ...]:
        """What is typed for it."""
        name = self.name.replace("_", "-")
        is_switch = self.value is bool and self.default is not False
        return self.option.flags or (f"--{name}/--no-{name}" if is_switch else f"--{name}",)

    @property
    def title(self) -> str:
        """What messages call it: its first flag, or the placeholder of an argument."""
        return (self.option.metavar or self.name.upper()) if self.option.positional else self.flags[0]


def _declare(default: Any, option: Option) -> Any:
    # Fields without a default may then follow others.
    return field(default=default, kw_only=True if default is REQUIRED else MISSING, metadata={"option": option})


def option(default: Any, help: str, *flags: str, **rest: Any) -> Any:
    """A field that is an option; `rest` are attributes of `Option`."""
    return _declare(default, Option(help, flags, **rest))


def argument(help: str, *, default: Any = REQUIRED, **rest: Any) -> Any:
    """A field that is a positional argument; `rest` are attributes of `Option`."""
    return _declare(default, Option(help, positional=True, **rest))


def group() -> Any:
    """A field that holds another dataclass with options."""
    return _declare(REQUIRED, GROUP)


def declared(kind: type) -> list[Declared]:
    """The options, arguments and groups among the fields of a dataclass, in order."""
    kinds = get_type_hints(kind)
    return [
        Declared(each.name, kinds[each.name], each.default, _of_class(each.metadata["option"], kind))
        for each in fields(kind)
        if "option" in each.metadata
    ]


def _of_class(option: Option, kind: type) -> Option:
    """The option with what its class says of all its options."""
    if option is GROUP or option.positional:
        return option
    reads = option.read_by or vars(kind).get("READ_BY")
    return replace(option, panel=option.panel or getattr(kind, "PANEL", None), read_by=reads)


def flat(kind: type) -> Iterator[Declared]:
    """The options of a dataclass and of the groups that it holds, in order."""
    for each in declared(kind):
        yield from flat(each.kind) if each.option is GROUP else (each,)


def like(kind: type, name: str, **changes: Any) -> Any:
    """A field that copies the option `name` of another class; `changes` replace its `default` or other attributes.

    Raises:
        KeyError: that class declares no such option.
    """
    found = {each.name: each for each in declared(kind)}[name]
    return _declare(changes.pop("default", found.default), replace(found.option, **changes))


class Given:
    """Base of the classes that `optional_fields` completes."""

    def given(self) -> dict[str, Any]:
        """The settings that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def optional_fields(
    config: type, prefix: str = "", first: Sequence[str] = ()
) -> Callable[[type[GivenType]], type[GivenType]]:
    """Decorator that gives a class the options of a settings class; each is None unless given.

    Args:
        config: the class of settings; the help shows its defaults.
        prefix: start of each help text.
        first: names of the options to list first.
    """
    options = {each.name: each for each in declared(config)}

    def complete(kind: type[GivenType]) -> type[GivenType]:
        kind.__annotations__ = {name: options[name].kind | None for name in dict.fromkeys([*first, *options])}
        for name in kind.__annotations__:
            default, option = options[name].default, options[name].option
            shown = ("off", "on")[default] if isinstance(default, bool) else default
            text = f"{prefix}{option.help} (default: {shown})"
            setattr(kind, name, _declare(None, replace(option, help=text)))
        return dataclass(frozen=True)(kind)

    return complete
