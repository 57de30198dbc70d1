"""Output streams: machine-readable results on stdout, messages for people on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import typer

from featup_cli.core.errors import FeatUpError, error_message, one_line

P = ParamSpec("P")
R = TypeVar("R")

ClickException: Any = typer.BadParameter.__mro__[2]
"""Base of click's errors of usage. Typer brings a click of its own from 0.2x on, and names only some of them."""

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn expected errors into one line on stderr and an exit status; others keep their traceback."""

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


def usage_line(error: Any) -> str:
    """The line on stderr for an error of click: what was typed, what is wrong with it, the next step."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "featup"
    if hasattr(error, "possibilities"):
        hint = f"did you mean {error.possibilities[0]}?" if error.possibilities else f"see {path} --help-all"
        return f"error: {error.option_name}: no such option; {hint}"
    message = re.sub(r"^Option '(\S+)' ", r"\1: ", one_line(error).rstrip("."))
    return f"error: {message}" if "; " in message else f"error: {message[0].lower()}{message[1:]}; see {path} --help"


def _say(text: str, err: bool = False) -> None:
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        print(text, file=stream)  # above a progress bar; typer's echo would write into it
    else:
        typer.echo(text, err=err)


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
        """Print a message, unless output is JSON or quiet."""
        if not (self.quiet or self.as_json):
            _say(text, err=True)

    def loading(self, name: str) -> None:
        """Say what takes the next seconds, before PyTorch is imported; of the processes of `torchrun` the first one."""
        if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
            self.note(f"loading {name} ...")

    def error(self, text: str) -> None:
        """Report a failure; never suppressed."""
        _say(f"error: {text}", err=True)

    def result(self, text: str, record: dict[str, Any]) -> None:
        """Print a result: `record` as one JSON line, or `text` for people and pipes."""
        if self.as_json:
            _say(json.dumps(record))
        elif not self.quiet:
            _say(text)

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
