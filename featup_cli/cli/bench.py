"""`featup bench`: speed, and how close it comes to the limit set by memory bandwidth."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from featup_kernels.operation import Case
from featup_kernels.registry import OPERATIONS

from featup_cli.benchmarking.settings import BACKENDS, BASELINES, DEFAULT_OPERATION, EXTRA_BASELINES, SCALED
from featup_cli.benchmarking.suites import SUITES
from featup_cli.cli.command import command
from featup_cli.cli.console import Console
from featup_cli.cli.groups import ConsoleOptions, DType, ReplaceOptions, RunOptions
from featup_cli.cli.unread import refuse_typed
from featup_cli.core.options import INPUT, OUTPUT, RUN, like, option
from featup_cli.io.replace import refuse_replacing


@dataclass(frozen=True)
class CaseOptions:
    """What is measured."""

    PANEL = INPUT

    shape: str | None = option(
        None,
        "Output: batch x height x width x channels, then the window (default 5). range_taps: size of the keys.",
        metavar="BxHxWxC[xK]",
        common=True,
    )
    suite: str | None = option(
        None, "; ".join(f"{s.name}: {s.about}" for s in SUITES.values()) + ".", choices=lambda: SUITES, common=True
    )
    operation: str | None = option(
        None,
        f"Kernel to measure with --shape. (default: {DEFAULT_OPERATION})",
        "--op",
        choices=lambda: OPERATIONS,
        common=True,
    )
    backward: bool = option(False, "With --shape: time the gradients instead of the forward pass.", common=True)
    scale: int | None = option(
        None, f"{', '.join(SCALED)}: output pixels per low-resolution pixel. (default: {Case.scale})", min=1
    )
    dtype: DType = option("float32", "Number format.")


@dataclass(frozen=True)
class TimingOptions:
    """How it is measured, and where the report goes."""

    PANEL = RUN

    backend: str = option("auto", "Kernels to run; auto: the fastest available.", choices=lambda: BACKENDS, common=True)
    baselines: str = option(
        "all",
        f"all ({','.join(BASELINES)}), none, or names, also {','.join(EXTRA_BASELINES)}.",
        suggests=lambda: ("all", "none", *BASELINES, *EXTRA_BASELINES),
        listed=True,
    )
    repeat: int = option(20, "Timed calls.", min=1)
    budget: float = option(5.0, "Seconds for each timing; a slower call runs once.", min=0)
    threads: int | None = option(None, "CPU threads. (default: PyTorch's)", min=1)
    device: str = like(RunOptions, "device")
    seed: int = option(0, "Seed of the random inputs.")
    json_file: Path | None = option(
        None,
        "Write JSON to this file and a table to stdout. (default: table on a terminal, else JSON)",
        "--json",
        panel=OUTPUT,
        metavar="FILE",
        own=True,
        common=True,
    )
    overwrite: bool = like(ReplaceOptions, "overwrite", panel=OUTPUT)
    quiet: bool = like(ConsoleOptions, "quiet")


@command(
    examples=[
        "featup bench --shape 64x224x224x3",
        "featup bench --shape 1x224x224x384x7 --backward --threads 2",
        "featup bench --suite table6 --json table6.json",
    ]
)
def bench(case: CaseOptions, timing: TimingOptions) -> None:
    """Measure one case or one suite."""
    if timing.json_file is not None:
        refuse_replacing(timing.json_file, timing.overwrite)
    if case.suite is not None:
        for group in (CaseOptions, TimingOptions):
            refuse_typed(group, SUITES[case.suite].unused, f"--suite {case.suite} doesn't read it; omit it")

    from featup_cli.benchmarking.run import benchmark

    report = benchmark(
        case.shape,
        suite=case.suite,
        op=case.operation,
        backward=case.backward,
        scale=case.scale,
        dtype=case.dtype,
        backend=timing.backend,
        baselines=timing.baselines,
        repeat=timing.repeat,
        budget=timing.budget,
        threads=timing.threads,
        device=timing.device,
        seed=timing.seed,
        note=Console(timing.quiet).note,
    )
    show(report, timing.json_file)


def show(report: dict[str, Any], json_file: Path | None) -> None:
    """Print the report as a table and write JSON to the file. Without a file, stdout gets JSON unless it is a terminal.

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

    from featup_cli.benchmarking.report import render

    RichConsole().print(render(report))
