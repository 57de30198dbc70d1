"""A run over pictures as the user sees it: a bar, lines, a summary, the exit status."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from featup_cli.cli.console import EXIT_FAILED, EXIT_INTERRUPTED, Console
from featup_cli.core.shapes import describe_size
from featup_cli.core.text import counted, number_text
from featup_cli.core.units import format_bytes
from featup_cli.io.replace import HINT

if TYPE_CHECKING:
    from pathlib import Path

    from featup_cli.batch.records import Record
    from featup_cli.batch.run import Run

Counts = Counter[str]
"""Pictures by status."""
SHOWN_KEPT = 3
"""Results that would have been replaced and are named; of others the number is told."""


def report_run(run: Run, console: Console, *, fail_fast: bool = False) -> int:
    """Do the work of a run and report it.

    Returns:
        The exit status: 0, that of the error if there is a single picture, else 1 if any failed.
    Raises:
        Exit: interrupted.
    """
    counts: Counts = Counter()
    start = time.monotonic()
    status = kept = 0
    announce = None if console.quiet or console.as_json else console.note
    try:
        with _progress(run, console, counts) as (show, stage), closing(run.records(announce, stage)) as records:
            for record in records:
                counts[record.status] += 1
                kept += record.kept
                _report(record, console, alone=len(run) == 1, told=not record.kept or kept <= SHOWN_KEPT)
                show()
                if record.status == "failed":
                    status = record.exit_code if len(run) == 1 else EXIT_FAILED
                    if fail_fast:
                        break
    except KeyboardInterrupt:
        if len(run) == 1:
            raise
        typer.echo(f"interrupted after {_describe(counts)}; run the same command to resume", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if len(run) > 1:
        seconds = time.monotonic() - start
        speed = f", {counts['done'] / seconds:.1f} a second" if counts["done"] else ""
        console.note(f"{_describe(counts)}; {seconds:.1f} s{speed}")
    if kept > SHOWN_KEPT:
        console.error(f"{kept - SHOWN_KEPT} more results exist already; {HINT.replace('replace it', 'replace them')}")
    if counts["failed"] and len(run) > 1:
        rest = len(run) - counts.total()
        console.error(f"{counts['failed']} of {len(run)} images failed" + (f"; {rest} not tried" if rest else ""))
    return status


def store_basis(run: Run, place: Path | None, basis: str, console: Console) -> None:
    """Store colours that fit all results of a run, if that is asked for and there are any."""
    made = [item.target for item in run.items if os.path.isfile(item.target)]
    if place is not None and made:
        from featup_cli.pictures.visualize import make_basis

        make_basis(made, place, basis)
        console.note(f"{place}: colours that fit {counted(len(made), 'result')}")


def report_preview(run: Run, console: Console, settings: str) -> int:
    """Say what a run would do, and with which settings; returns the exit status."""
    counts: Counts = Counter()
    total = 0
    console.note(settings)
    for preview in run.preview(None if console.quiet or console.as_json else console.note):
        counts[preview.action] += 1
        total += preview.bytes or 0
        text = f"{preview.action}  {preview.item.picture}"
        if preview.action != "fail":
            text += f" -> {preview.item.target}"
        size = f"; about {format_bytes(preview.bytes)}" if preview.bytes is not None else ""
        record: dict[str, Any] = {
            "input": preview.item.picture,
            "output": preview.item.target,
            "action": preview.action,
        }
        record |= {"reason": preview.reason, "bytes": preview.bytes}
        console.result(f"{text}  ({preview.reason}{size})", record)
    text = f"would create {counts['make']}, re-create {counts['redo']}, skip {counts['skip']}"
    text += f"; {counts['fail']} would fail" if counts["fail"] else ""
    console.note(text + (f"; feature files of about {format_bytes(total)} in all" if total else ""))
    return EXIT_FAILED if counts["fail"] else 0


def _report(record: Record, console: Console, alone: bool, told: bool) -> None:
    for note in record.notes:
        console.note(f"note: {note}")
    if record.status == "failed":
        if told:
            console.error(record.error)
        if console.as_json:
            console.result("", record.as_json())
        return
    if record.status == "skipped":
        if alone:  # of several the summary tells
            console.note(f"{record.item.picture}: up to date, skipped; --overwrite re-creates it")
    else:
        channels, height, width = record.shape
        scores = "  ".join(f"{name} {number_text(value)}" for name, value in record.scores.items())
        made = f"{counted(channels, 'channel')}, {describe_size((height, width))}, {record.seconds:.1f} s"
        console.note(f"{record.item.picture}: {made}  {scores}".rstrip())
    console.result("\n".join(record.files.values()), record.as_json())


def _describe(counts: Counts) -> str:
    return f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed"


@contextmanager
def _progress(run: Run, console: Console, counts: Counts) -> Iterator[tuple[Callable[[], None], Callable[..., None]]]:
    """Two functions: one shows `counts` in an overall bar, one the stages of a single picture; never both."""
    if len(run) == 1:
        with console.progress() as stage:
            yield lambda: None, stage
        return
    if not console.shows_progress:
        yield lambda: None, _ignore
        return
    import sys

    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(), TextColumn("{task.fields[others]}"),
    )  # fmt: skip
    # Lines printed meanwhile go above the bar, but into a pipe or file if stdout is one.
    above = sys.stdout.isatty()
    with Progress(*columns, console=RichConsole(stderr=True), transient=True, redirect_stdout=above) as bar:
        task = bar.add_task("pictures", total=len(run), speed="", others="")
        start = time.monotonic()

        def show() -> None:
            speed = counts["done"] / (time.monotonic() - start)
            bar.update(
                task, completed=counts.total(), speed=f"{speed:.1f} a second",
                others=f"{counts['skipped']} skipped, {counts['failed']} failed",
            )  # fmt: skip

        yield show, _ignore


def _ignore(*progress: Any) -> None:
    """Report nothing."""
