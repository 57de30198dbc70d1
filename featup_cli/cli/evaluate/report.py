"""`featup eval report`: several runs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli.console import report_errors
from featup_cli.cli.evaluate.common import show_tables

EXAMPLES = "Example:  featup eval report runs/*.json > table.md"


@report_errors
def report(
    runs: Annotated[list[Path], typer.Argument(help="JSON files that `featup eval ... -o` wrote.", metavar="RUN")],
) -> None:
    """Merge runs into one table for each task."""
    from featup_cli.evaluation.report import load_run, make_tables

    show_tables(make_tables([(path.stem, load_run(path)) for path in runs]), typer.echo)
