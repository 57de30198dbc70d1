"""The help of commands and groups: plain text in two columns, as wide as the terminal.

The help of a command with many options shows the first sentence on each common one; `--help-all` shows everything.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from inspect import cleandoc
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from featup_cli.core.options import REQUIRED, Declared
from featup_cli.core.values import describe_bounds

HELP, HELP_ALL = ("--help", "-h"), "--help-all"
"""What is typed for the help."""
FEW = 12
"""A command with at most so many options shows all of them at once."""
NAMES = 26
"""Widest column of names. A longer name stands on a line of its own."""
SHORT_LIST = 4
"""Choices that the short help lists at most."""
NARROWEST, WIDEST = 40, 100
"""Columns of text at least and at most."""

DEFAULT = re.compile(r"(.*?)(?:\s*\(default: (.*)\))?", re.DOTALL)
"""A help text, and the default that it tells at its end."""
PLACEHOLDERS = {int: "N", float: "NUMBER", Path: "PATH"}


class Row(NamedTuple):
    """A name, its text, and what follows the text if it fits in the same line."""

    name: str
    text: str
    extra: str = ""


Section = tuple[str, list[Row]]
"""A heading, and the rows below it."""


def command_help(path: str, command: Any, everything: bool) -> str:
    """The help of a command.

    Args:
        path: the command as it is called.
        command: a `lazy.Command`.
        everything: all options and all of their texts, instead of the first sentences on the common ones.
    """
    everything = everything or len(command.options) <= FEW
    shown = [each for each in command.options if everything or _is_common(each)]
    panels = dict.fromkeys(_panel(each) for each in shown)
    sections = [(panel, [_row(each, everything) for each in shown if _panel(each) == panel]) for panel in panels]
    usage = " ".join([path, "[OPTIONS]", *(_argument(each) for each in shown if each.option.positional)])
    more = len(command.options) - len(shown)
    return _page(usage, command, sections, f"{more} more options: {path} --help-all" if more else "")


def group_help(path: str, group: Any) -> str:
    """The help of a group of commands (`lazy.LazyGroup`)."""
    commands = [Row(name, entry.about) for name, entry in group.table.items()]
    own = [Row(_names([*each.opts, *each.secondary_opts]), each.help or "") for each in group.params]
    own.append(Row(_names(HELP), f"Show this help. {path} COMMAND --help: the options of a command."))
    return _page(f"{path} [OPTIONS] COMMAND ...", group, [("Commands", commands), ("Options", own)], group.epilog or "")


def _page(usage: str, command: Any, sections: Sequence[Section], end: str) -> str:
    """The whole text: usage, what the command does, sections, examples, last line."""
    columns = min(max(shutil.get_terminal_size((80, 24)).columns, NARROWEST), WIDEST)
    bold = "\033[1m{}\033[0m".format if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else str
    about = [line for part in cleandoc(command.help or "").split("\n\n") for line in [*_wrapped(part, columns), ""]]
    lines = [*_hanging(f"{bold('Usage:')} {usage}", columns), "", *about]
    for heading, rows in sections:
        lines += [bold(f"{heading}:"), *_columns(rows, columns), ""]
    if command.examples:
        lines += [bold("Examples:"), *(line for each in command.examples for line in example_lines(each, columns)), ""]
    return "\n".join([*lines, end]).rstrip() + "\n"


def _columns(rows: Sequence[Row], columns: int) -> list[str]:
    """Names at the left, their texts at the right."""
    first, lines = max((len(row.name) for row in rows if len(row.name) <= NAMES), default=0), []
    for name, text, extra in rows:
        if len(text) + 1 + len(extra) <= columns - first - 4:
            text = f"{text} {extra}"
        right = [line for part in text.splitlines() for line in _wrapped(part, columns - first - 4)] or [""]
        if len(name) > first:
            lines.append(f"  {name}")
            name = ""
        lines += [f"  {name if not number else '':{first}}  {line}".rstrip() for number, line in enumerate(right)]
    return lines


def example_lines(example: str, columns: int) -> list[str]:
    """An example as it can be copied; a backslash continues a line that would be too long."""
    first, *others = re.split(r" (?=-)", example)
    lines = [f"  {first}"]
    for part in others:
        if len(lines[-1]) + 1 + len(part) <= columns - 2:
            lines[-1] += f" {part}"
        else:
            lines.append(f"      {part}")
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _is_common(each: Declared) -> bool:
    return each.option.common or each.option.positional or each.default is REQUIRED


def _panel(each: Declared) -> str:
    return "Arguments" if each.option.positional else each.option.panel or "Options"


def _row(each: Declared, everything: bool) -> Row:
    """The row of an option. Everything stands in the text, or only what must be known."""
    if each.option.positional:
        name = each.title
    else:
        default = "NAME" if each.choices else PLACEHOLDERS.get(each.value, "TEXT")
        name = " ".join([_names(each.flags), *([] if each.value is bool else [each.option.metavar or default])])
    return Row(name, full_text(each)) if everything else Row(name, *short_text(each))


def _names(flags: Iterable[str]) -> str:
    """Flags as the help shows them: long ones first, `--[no-]name` for a pair."""
    shown = [re.sub(r"^--([\w-]+)/--no-\1$", r"--[no-]\1", flag) for flag in flags]
    return ", ".join(sorted(shown, key=lambda flag: not flag.startswith("--")))


def _argument(each: Declared) -> str:
    """An argument in the usage line."""
    name = f"{{{each.title}}}" if "|" in each.title else each.title
    return f"{name}..." if each.is_repeated and not name.endswith("...") else name


def full_text(each: Declared) -> str:
    """All that the help says of an option: its text, then choices, bounds and default in parentheses."""
    text, default = _text(each)
    bounds = describe_bounds(each.option.min, each.option.max)
    facts = "; ".join(fact for fact in (_choices(each, text), bounds, default) if fact)
    return text + (" \n"["\n" in text] + f"({facts})" if facts else "")


def short_text(each: Declared) -> tuple[str, str]:
    """The first sentence on an option, with few choices; and its default."""
    text, default = _text(each)
    text = re.split(r"(?<=\.)\s|\n", text)[0]
    choices = _choices(each, text) if len(each.choices) <= SHORT_LIST else ""
    facts = f"({'; '.join(fact for fact in (choices, default) if fact)})" if choices or default else ""
    return (f"{text} {facts}".rstrip(), "") if choices or each.default is REQUIRED else (text, facts)


def _text(each: Declared) -> tuple[str, str]:
    """The help text of an option, and its default in words."""
    text, default = DEFAULT.fullmatch(each.option.help).groups()  # type: ignore[union-attr]
    if each.default is REQUIRED:
        return text, "" if each.option.positional else "required"
    if default is None and each.default not in (None, False, ()):
        default = "on" if each.default is True else str(each.default)
    return text, f"default: {default}" if default else ""


def _choices(each: Declared, text: str) -> str:
    """The choices of an option, unless the text names them all."""
    return "" if all(re.search(rf"\b{choice}\b", text) for choice in each.choices) else ", ".join(each.choices)


def _wrapped(text: str, columns: int) -> list[str]:
    return wrap(text, columns, break_long_words=False, break_on_hyphens=False)


def _hanging(text: str, columns: int) -> list[str]:
    return wrap(text, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
