"""Settings as frozen dataclasses: changes from text, and the checks that their constructors share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from featup_cli.core.errors import UsageError
from featup_cli.core.values import did_you_mean, parse_choice, parse_number

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


@dataclass(frozen=True)
class NoSettings:
    """The settings of something that has none."""


def later(default: Any) -> Any:
    """A field that was added after results were kept; `recorded` says when records have it."""
    return field(default=default, metadata={"later": True})


def recorded(config: DataclassInstance) -> dict[str, Any]:
    """Settings as JSON values. Those declared by `later` are left out while all have their defaults.

    So results that were made before there were such settings still count as made by the same ones.
    """
    added = {each.name: each.default for each in fields(config) if "later" in each.metadata}
    unused = all(getattr(config, name) == default for name, default in added.items())
    return {name: value for name, value in asdict(config).items() if not (unused and name in added)}


def check_positive(config: DataclassInstance, *names: str) -> None:
    """Raise UsageError unless these settings are above 0."""
    for name in names:
        if getattr(config, name) <= 0:
            raise UsageError(f"{name}={getattr(config, name)}: must be above 0")


def check_not_negative(config: DataclassInstance, *names: str) -> None:
    """Raise UsageError if one of these settings is below 0."""
    for name in names:
        if getattr(config, name) < 0:
            raise UsageError(f"{name}={getattr(config, name)}: must not be negative")


def check_within(config: DataclassInstance, **ranges: tuple[float, float]) -> None:
    """Raise UsageError unless each of these settings lies in its range (low, high), ends included."""
    for name, (low, high) in ranges.items():
        if not low <= getattr(config, name) <= high:
            raise UsageError(f"{name}={getattr(config, name)}: must lie between {low} and {high}")


def check_square(config: DataclassInstance, name: str) -> None:
    """Raise UsageError unless a setting is a square number, as stratified draws need."""
    if round(getattr(config, name) ** 0.5) ** 2 != getattr(config, name):
        raise UsageError(f"{name}={getattr(config, name)}: must be a square number, for stratified draws")


def change_settings(config: Settings, texts: Iterable[str], prefix: str = "") -> Settings:
    """Change a frozen dataclass of settings by `key=value` texts; `none` gives None where that is allowed.

    Args:
        config: the settings.
        texts: the changes.
        prefix: prefix of each key on the command line, for messages.
    Raises:
        UsageError: an unknown setting, or an invalid value.
    """
    kinds = get_type_hints(type(config))
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in kinds:
            keys = ", ".join(prefix + key for key in kinds)
            hint = did_you_mean(name, kinds)
            raise UsageError(f"--set {prefix}{text}: expected KEY=VALUE with KEY one of {keys}{hint}")
        changes[name] = _parse(prefix + name, kinds[name], value.strip())
    return replace(config, **changes)


def _parse(name: str, kind: Any, text: str) -> Any:
    if get_origin(kind) is UnionType:  # the only unions of a setting are with None
        if text.lower() == "none":
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if kind is bool:
        return parse_choice(text, ("true", "false"), f"{name}=") == "true"
    if get_origin(kind) is Literal:
        return parse_choice(text, get_args(kind), f"{name}=")
    return parse_number(text, kind, f"{name}=") if kind in (int, float) else text


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Differences between two records of settings: sorted keys (nested ones with dots) and both values or None."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield prefix + key, before, after
