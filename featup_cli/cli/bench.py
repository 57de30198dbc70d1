"""`featup bench`: how fast, and how close to the limit that memory sets."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from featup_cli.benchmark import settings as benchmark
from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.options import INPUT, OUTPUT, RUN
from featup_cli.core.errors import UsageError

EXAMPLES = (
    "Examples:  featup bench --shape 64x224x224x3  |  "
    "featup bench --shape 1x224x224x384x7 --backward --threads 2  |  "
    "featup bench --suite table6 --json table6.json"
)

Operation = Enum("Operation", {name: name for name in benchmark.OPERATIONS}, type=str)  # type: ignore[misc]
Suite = Enum("Suite", {name: name for name in benchmark.SUITES}, type=str)  # type: ignore[misc]
Backend = Enum("Backend", {name: name for name in benchmark.BACKENDS}, type=str)  # type: ignore[misc]


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
            help="table6: the paper's eight rows. upsamplers: its figures 16 and 17. pipeline: the main job by stage.",
        ),
    ] = None,
    operation: Annotated[
        Operation | None,
        typer.Option(
            "--op", rich_help_panel=INPUT, show_default=False, help="Kernel, with --shape. (default: adaptive_conv)"
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
            help="neighbor_mix, resampled_conv: output pixels per low-resolution pixel. (default: 16)",
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
            help=f"all ({','.join(benchmark.BASELINES)}), none, or names; {','.join(benchmark.EXTRA_BASELINES)} too.",
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
    given = {"--op": operation, "--scale": scale, "--backward": backward or None}
    case = parse_case(shape, suite, given, dtype.value)
    settings = benchmark.Settings(
        case, suite and suite.value, dtype.value, device, backend.value, repeat, budget, threads,
        benchmark.parse_baselines(baselines), seed,
    )  # fmt: skip

    from featup_cli.benchmark.run import run_benchmark

    show(run_benchmark(settings, Console(quiet).note), json_file)


def parse_case(shape: str | None, suite: Suite | None, given: dict[str, Any], dtype: str) -> benchmark.Case | None:
    """The case that the options describe, or None with a suite.

    Raises:
        UsageError: neither or both are given, or an option that doesn't go with them.
    """
    if (shape is None) == (suite is None):
        raise UsageError(f"give either --shape BxHxWxC[xK] or --suite {'|'.join(benchmark.SUITES)}")
    if shape is None:
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} goes with --shape: a suite has cases of its own")
        return None
    operation = given["--op"].value if given["--op"] is not None else benchmark.OPERATIONS[0]
    if given["--scale"] is not None and operation not in benchmark.SCALED:
        raise UsageError(f"--scale goes with --op {' or '.join(benchmark.SCALED)}, not {operation}")
    return benchmark.Case(
        *benchmark.parse_shape(shape), operation, given["--scale"] or benchmark.DEFAULT_SCALE, dtype,
        bool(given["--backward"]),
    )  # fmt: skip


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
