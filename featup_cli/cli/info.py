"""`featup info`: describe files; without a file, list the choices and what this machine can run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from featup_cli.cli.command import command
from featup_cli.cli.console import EXIT_FAILED, Console
from featup_cli.core.options import argument, option
from featup_cli.core.text import number_text


@dataclass(frozen=True)
class FileOptions:
    """Which files."""

    files: tuple[Path, ...] = argument(
        "Features, fitted models or upsampler weights; only headers are read.", default=(), metavar="[FILE]..."
    )
    as_json: bool = option(False, "Print JSON on stdout, one line per file.", "--json")


@command(
    examples=["featup info", "featup info features/photo.safetensors", "featup info *.safetensors --json"],
)
def info(given: FileOptions) -> None:
    """Describe files, or list the choices."""
    if given.files:
        describe_files(given.files, Console(as_json=given.as_json))
        return
    from featup_cli.engine.inventory import describe_environment

    facts = describe_environment()
    if given.as_json:
        typer.echo(json.dumps(facts))
    else:
        print_tables(facts)


def describe_files(files: Sequence[Path], console: Console) -> None:
    """Describe each file. Report those that can't be read, and go on."""
    from featup_cli.core.errors import FeatUpError, error_message
    from featup_cli.io.describe import describe_file

    failed = 0
    for path in files:
        try:
            facts = describe_file(path)
        except FeatUpError as error:
            message = error_message(error)
            console.error(str(message))
            if console.as_json:
                console.result("", {"file": str(path), "error": message})
            failed += 1
        else:
            console.result("\n".join(describe_lines(facts)), facts)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def describe_lines(facts: dict[str, Any]) -> list[str]:
    """Facts about a file as aligned lines, nested ones indented."""
    facts = dict(facts)
    tensors, provenance = facts.pop("tensors"), facts.pop("provenance", None)
    provenance = provenance if isinstance(provenance, dict) else {}
    if facts["kind"] == "features":
        facts["maps"] = {name: f"{tensor['shape']} {tensor['dtype']}" for name, tensor in tensors.items()}
    facts["provenance"] = {key: value for key, value in provenance.items() if not is_told(key, value, facts)}
    lines = [plain(facts.pop("file"))]
    for name, value in facts.items():
        if name in ("provenance", "maps") and isinstance(value, dict) and value:
            lines += [f"  {name}", *(f"    {plain(key):19} {value_text(part)}" for key, part in value.items())]
        else:
            lines.append(f"  {plain(name):21} {value_text(value)}")
    return lines


def is_told(key: str, value: Any, facts: dict[str, Any]) -> bool:
    """Whether a fact of the provenance stands among `facts` of the file, or beside it (those of the request do)."""
    config = facts.get("config")
    if key == "request" or (key in facts and facts[key] == value):
        return True
    if not (isinstance(value, dict) and value and isinstance(config, dict)):
        return False
    return all(name in config and config[name] == part for name, part in value.items())


def value_text(value: Any) -> str:
    """A JSON value in one line, without quotes where it is plain."""
    if isinstance(value, dict):
        return ", ".join(f"{plain(key)} {value_text(part)}" for key, part in value.items()) or "-"
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return number_text(value, "")
    return plain(json.dumps(value, ensure_ascii=False))


def plain(text: str) -> str:
    """Text from an untrusted file, without line breaks and control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def print_tables(facts: dict[str, Any]) -> None:
    """Show the facts as tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows, columns in (
        ("Backbones (any timm name or reference works too)", facts["backbones"], ("alias", "model", "about")),
        ("Methods", facts["methods"], ("method", "about")),
        ("Weights (--upsampler)", facts["upsamplers"], ("upsampler", "method", "for", "where")),
        ("Devices", facts["devices"], ("device", "about")),
        ("Kernels", facts["kernels"], ("backend", "device", "status")),
        ("Versions", facts["versions"], ("package", "version")),
    ):  # fmt: skip
        table = Table(*columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(str(row[c]) for c in columns))
        console.print(table, end="\n\n")
