"""`featup bench`: how fast, and how close to the limit that memory sets."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from featup_kernels.operation import Case
from featup_kernels.registry import OPERATIONS

from featup_cli.benchmark.settings import BACKENDS, BASELINES, EXTRA_BASELINES, SCALED
from featup_cli.benchmark.suites import SUITES
from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.options import INPUT, OUTPUT, RUN

EXAMPLES = (
    "Examples:  featup bench --shape 64x224x224x3  |  "
    "featup bench --shape 1x224x224x384x7 --backward --threads 2  |  "
    "featup bench --suite table6 --json table6.json"
)

Operation = Enum("Operation", {name: name for name in OPERATIONS}, type=str)  # type: ignore[misc]
Suite = Enum("Suite", {name: name for name in SUITES}, type=str)  # type: ignore[misc]
Backend = Enum("Backend", {name: name for name in BACKENDS}, type=str)  # type: ignore[misc]


@report_errors
def bench(
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape",
            rich_help_panel=INPUT,
            show_default=False,
            metavar="BxHxWxC[xK]",
            help="Batch x height x width x channels of the output, and the window (5). range_taps: size of the keys.",
        ),
    ] = None,
    suite: Annotated[
        Suite | None,
        typer.Option(
            "--suite",
            rich_help_panel=INPUT,
            show_default=False,
            help=" ".join(f"{name}: {suite.about}." for name, suite in SUITES.items()),
        ),
    ] = None,
    operation: Annotated[
        Operation | None,
        typer.Option(
            "--op", rich_help_panel=INPUT, show_default=False, help=f"Kernel, with --shape. (default: {Case.operation})"
        ),
    ] = None,
    backward: Annotated[
        bool,
        typer.Option(
            "--backward", rich_help_panel=INPUT, help="With --shape: time all gradients, not the forward pass."
        ),
    ] = False,
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale",
            min=1,
            rich_help_panel=INPUT,
            show_default=False,
            help=f"{', '.join(SCALED)}: output pixels per low-resolution pixel. (default: {Case.scale})",
        ),
    ] = None,
    dtype: Annotated[options.DType, typer.Option("--dtype", rich_help_panel=INPUT, help="Number format.")] = (
        options.DType.float32
    ),
    backend: Annotated[
        Backend, typer.Option("--backend", rich_help_panel=RUN, help="Kernels to run; auto is the fastest that can.")
    ] = Backend.auto,  # type: ignore[attr-defined]
    baselines: Annotated[
        str,
        typer.Option(
            "--baselines",
            rich_help_panel=RUN,
            help=f"all ({','.join(BASELINES)}), none, or names; {','.join(EXTRA_BASELINES)} too.",
        ),
    ] = "all",
    repeat: Annotated[int, typer.Option("--repeat", min=1, rich_help_panel=RUN, help="Timed calls.")] = 20,
    budget: Annotated[
        float,
        typer.Option("--budget", min=0, rich_help_panel=RUN, help="Seconds for each timing; a slower call runs once."),
    ] = 5.0,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, rich_help_panel=RUN, show_default=False, help="CPU threads. (default: PyTorch's)"
        ),
    ] = None,
    device: options.Device = "auto",
    seed: Annotated[int, typer.Option("--seed", rich_help_panel=RUN, help="Of the random inputs.")] = 0,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            rich_help_panel=OUTPUT,
            show_default=False,
            metavar="FILE",
            help="Write JSON there, and the table to stdout. (default: table on a terminal, else JSON)",
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Check kernels against the reference, then time them beside baselines and the memory floor."""
    from featup_cli.benchmark.run import benchmark

    report = benchmark(
        shape, suite=suite and suite.value, op=operation and operation.value, backward=backward, scale=scale,
        dtype=dtype.value, backend=backend.value, baselines=baselines, repeat=repeat, budget=budget, threads=threads,
        device=device, seed=seed, note=Console(quiet).note,
    )  # fmt: skip
    show(report, json_file)


def show(report: dict[str, Any], json_file: Path | None) -> None:
    """Write the report: JSON to the file if there is one, else to stdout; a table for people otherwise.

    Raises:
        OutputError: the file can't be written.
    """
    if json_file is not None:
        from featup_cli.io.atomic import atomic_path

        with atomic_path(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    elif not sys.stdout.isatty():
        typer.echo(json.dumps(report, indent=1))
        return
    from rich.console import Console as RichConsole

    from featup_cli.benchmark.report import render

    RichConsole().print(render(report))
