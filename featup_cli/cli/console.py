"""What goes where: machine-readable results on stdout, everything for people on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import typer

from featup_cli.errors import FeatUpError

P = ParamSpec("P")
R = TypeVar("R")

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the machine or the accelerator ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(s in str(error) for s in ("out of memory", "can't allocate memory"))
    )


def error_message(error: BaseException) -> str | None:
    """The line to show for an expected error, or None for one that deserves its traceback."""
    if isinstance(error, FeatUpError):
        return one_line(error)
    if is_out_of_memory(error):
        return "out of memory: give a smaller --output-size or --resize, fewer images at once, or --device cpu"
    return None


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn expected errors into one line on stderr and their exit status; others keep their traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except (FeatUpError, MemoryError, RuntimeError) as error:
            message = error_message(error)
            if message is None or isinstance(error, typer.Exit):
                raise
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(getattr(error, "exit_code", EXIT_FAILED)) from None

    return wrapped


@dataclass(frozen=True)
class Console:
    """Where a command's output goes; `quiet` leaves errors only, `as_json` writes JSON Lines to stdout."""

    quiet: bool = False
    as_json: bool = False

    @property
    def shows_progress(self) -> bool:
        """Progress bars appear on a terminal only, and never beside machine output."""
        return not (self.quiet or self.as_json) and sys.stderr.isatty()

    def note(self, text: str) -> None:
        """Tell the user something, unless output is for machines or off."""
        if not (self.quiet or self.as_json):
            typer.echo(text, err=True)

    def error(self, text: str) -> None:
        """Report a failure; never suppressed."""
        typer.echo(f"error: {text}", err=True)

    def result(self, text: str, record: dict[str, Any]) -> None:
        """Give a result: `record` as one JSON line, or `text` for people and pipes."""
        if self.as_json:
            typer.echo(json.dumps(record))
        elif not self.quiet:
            typer.echo(text)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int, str], None]]:
        """A progress bar fed by calls of (stage, done, total, score); invisible when it shouldn't show."""
        if not self.shows_progress:
            yield lambda stage, done, total, score: None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[score]}"),
        )  # fmt: skip
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
            tasks: dict[str, Any] = {}

            def update(stage: str, done: int, total: int, score: str) -> None:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=total, score="")
                bar.update(tasks[stage], completed=done, total=total, score=score)

            yield update
