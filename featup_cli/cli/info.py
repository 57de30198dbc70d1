"""`featup info`: what there is to choose from, and what this machine can run."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from featup_cli.cli.console import report_errors

EXAMPLES = "Examples:  featup info  |  featup info --json"


@report_errors
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """List backbone aliases, methods, upsamplers, devices, versions and the kernels that would run."""
    from featup_cli.environment import describe_environment

    facts = describe_environment()
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        print_tables(facts)


def print_tables(facts: dict[str, Any]) -> None:
    """Show the facts as tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows, columns in (
        ("Backbones, beside any timm name or reference", facts["backbones"], ("alias", "model", "about")),
        ("Methods", facts["methods"], ("method", "about")),
        ("Weights for jbu and resfu (--upsampler)", facts["upsamplers"], ("upsampler", "method", "for", "where")),
        ("Devices", facts["devices"], ("device", "about")),
        ("Kernels", facts["kernels"], ("backend", "device", "status")),
        ("Versions", facts["versions"], ("package", "version")),
    ):  # fmt: skip
        table = Table(*columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(str(row[c]) for c in columns))
        console.print(table, end="\n\n")
