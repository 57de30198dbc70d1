"""Writes docs/reference/ and the tables of README.md from the records: `python -m tools.reference`, `--check` in CI.

Commands come from the command line itself, methods, formats, tasks, operations and backbones from their records,
settings from their classes: fields, defaults, and what their docstrings say of each. In other pages a table stands
between `<!-- reference: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from inspect import cleandoc
from pathlib import Path
from typing import Any, get_type_hints

import typer
from featup_kernels.registry import OPERATIONS

from featup_cli.backbones.registry import LOADERS
from featup_cli.cli.app import app
from featup_cli.core.options import REQUIRED, Declared
from featup_cli.evaluation.registry import TASKS
from featup_cli.exporting.registry import FORMATS
from featup_cli.training.config import TrainConfig
from featup_cli.upsamplers.registry import METHODS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
MARK = re.compile(r"(<!-- reference: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MADE = "*Made by `python -m tools.reference`; edit the code instead.*"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in row) + " |")
    return "\n".join(lines)


def code(text: str) -> str:
    """Text as code, or nothing."""
    return f"`{text}`" if text else ""


# Commands


def cli_page() -> str:
    """Every command, its arguments and its options."""
    return "\n\n".join(["# Commands", MADE, *_commands("featup", typer.main.get_command(app), None)])


def _commands(path: str, command: Any, context: Any) -> Iterator[str]:
    if hasattr(command, "list_commands"):
        context = command.context_class(command, parent=context, info_name=path)
        for name in command.list_commands(context):
            yield from _commands(f"{path} {name}", command.resolve_command(context, [name])[1], context)
        return
    yield f"## {path}"
    yield cleandoc(command.help or "")
    arguments = [each for each in command.options if each.option.positional]
    if arguments:
        rows = [(code(each.option.metavar or each.name.upper()), each.option.help) for each in arguments]
        yield table(("argument", ""), rows)
    options = [each for each in command.options if not each.option.positional]
    for panel in dict.fromkeys(each.option.panel for each in options):
        own = [each for each in options if each.option.panel == panel]
        yield table((panel or "option", "default", ""), [(_flags(e), _default(e), e.option.help) for e in own])
    if command.examples:
        yield "```sh\n" + "\n".join(command.examples) + "\n```"


def _flags(each: Declared) -> str:
    names = ", ".join(code(flag) for names in each.flags for flag in names.split("/"))
    value = "" if each.value is bool else "|".join(each.choices) or each.option.metavar or ""
    return f"{names} {code(value)}".strip()


def _default(each: Declared) -> str:
    return "" if each.default in (None, REQUIRED, False, ()) else code(str(each.default))


# Records


def methods_table() -> str:
    """Every method."""
    rows = [
        (code(m.name), m.about, m.source, m.needs.value, "yes" if m.trainable else "", "yes" if m.per_picture else "")
        for m in METHODS.values()
    ]
    return table(("method", "", "source", "looks at the features and", "has weights", "made for each picture"), rows)


def formats_table() -> str:
    """Every export format."""
    return table(("`--to`", ""), [(code(f.name), f.about) for f in FORMATS.values()])


def tasks_table() -> str:
    """Every evaluation task, with its scores."""
    rows = [(code(t.name), t.about, t.source, t.needs, ", ".join(c.title for c in t.columns)) for t in TASKS.values()]
    return table(("task", "", "source", "needs", "scores"), rows)


def operations_table() -> str:
    """Every per-pixel operation."""
    return table(("operation", "", "source"), [(code(o.name), o.about, o.source) for o in OPERATIONS.values()])


def backbones_table() -> str:
    """Short names of backbones."""
    aliases = [(name, alias) for loader in LOADERS.values() for name, alias in loader.aliases.items()]
    return table(("alias", "model", ""), [(code(name), code(a.reference), a.description) for name, a in aliases])


def settings_page() -> str:
    """Settings of every method that has some, and of the training."""
    kinds: dict[type[Any], str] = {TrainConfig: "`featup train --set KEY=VALUE`"}
    for method in METHODS.values():
        if fields(method.config):
            option = "upsampler.KEY=VALUE` of `featup train" if method.trainable else "KEY=VALUE"
            kinds[method.config] = f"`{method.name}`: `--set {option}`"
    parts = ["# Settings", MADE]
    for kind, use in kinds.items():
        about = attributes(kind)
        hints = get_type_hints(kind)
        rows = [
            (code(f.name), code(_kind(hints[f.name])), code(_value(f.default)), about.get(f.name, ""))
            for f in fields(kind)
        ]
        parts += [f"## {kind.__name__}", use, table(("setting", "type", "default", ""), rows)]
    return "\n\n".join(parts)


def attributes(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a class says of each of its fields, under `Attributes:`; of its parents' too."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        text = cleandoc(part.__doc__ or "").partition("Attributes:\n")[2]
        for names, about in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {6,}.*)*)", text, re.MULTILINE):
            found |= {name: " ".join(about.split()) for name in names.split(", ")}
    return found


def _kind(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", text)
    return " | ".join(part.strip(" '") for part in literal[1].split(",")) if literal else text


def _value(default: Any) -> str:
    return "" if default is MISSING else str(default).lower() if isinstance(default, bool) else str(default)


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods_table,
    "formats": formats_table,
    "tasks": tasks_table,
    "operations": operations_table,
    "backbones": backbones_table,
}


def pages() -> dict[Path, str]:
    """Every page as it must be."""
    made = {FOLDER / "cli.md": cli_page(), FOLDER / "settings.md": settings_page()}
    made |= {FOLDER / f"{name}.md": f"# {name.capitalize()}\n\n{MADE}\n\n{make()}" for name, make in TABLES.items()}
    made = {path: f"{text}\n" for path, text in made.items()}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        before = path.read_text()
        after = MARK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", before)
        made |= {path: after} if MARK.search(before) else {}
    return made


def main() -> None:
    """Write the pages, or with `--check` say which are not as they must be."""
    differing = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path in differing:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path])
    sys.exit("not as the code says: run python -m tools.reference" if "--check" in sys.argv and differing else 0)


if __name__ == "__main__":
    main()
