"""Output of runs: files, tables, JSON; and `featup eval report`, which merges several runs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from featup_cli.cli.command import command
from featup_cli.cli.console import Console
from featup_cli.core.options import argument

if TYPE_CHECKING:
    from featup_cli.evaluation.report import Table


@dataclass(frozen=True)
class Runs:
    """Runs to show."""

    runs: tuple[Path, ...] = argument("JSON files that `featup eval ... -o` wrote.", metavar="RUN", is_read=True)


@command(examples=["featup eval report runs/*.json > table.md"])
def report(options: Runs) -> None:
    """Merge runs into one table for each task."""
    from featup_cli.evaluation.report import report

    show_tables(report(options.runs))


def finish(run: dict[str, Any], output: Path | None, console: Console) -> None:
    """Write the run to its file and show it."""
    from featup_cli.evaluation.report import make_tables
    from featup_cli.io.atomic import atomic_path

    if output is not None:
        with atomic_path(output) as temporary:
            temporary.write_text(json.dumps(run, indent=1) + "\n")
    if console.as_json:
        console.result("", run)
    elif not console.quiet:
        show_tables(make_tables([("", run)]))


def show_tables(tables: list[Table]) -> None:
    """Tables for people on a terminal, Markdown elsewhere."""
    if not sys.stdout.isatty():
        typer.echo("\n\n".join(table.markdown() for table in tables))
        return
    from rich.console import Console as RichConsole
    from rich.table import Table as RichTable

    for table in tables:
        shown = RichTable(title=table.title, title_justify="left", box=None, pad_edge=False)
        for number, title in enumerate(table.header):
            shown.add_column(title, justify="right" if number else "left")
        for row in table.rows:
            shown.add_row(*row)
        RichConsole().print(shown)
