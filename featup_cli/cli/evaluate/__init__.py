"""`featup eval`: a command for each evaluation task, built from its record on demand."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from featup_cli.cli.evaluate.commands import make_command
from featup_cli.cli.evaluate.retrieval import PointOptions, show_matches
from featup_cli.cli.lazy import Entry, LazyGroup
from featup_cli.evaluation.registry import TASKS
from featup_cli.evaluation.retrieval.task import TASK as RETRIEVAL
from featup_cli.evaluation.task import Task

COMMANDS: dict[str, list[Task]] = defaultdict(list)
"""Tasks by the name of the command that they share."""
for _task in TASKS.values():
    COMMANDS[_task.command or _task.name].append(_task)
EXTRAS: dict[str, tuple[Any, ...]] = {RETRIEVAL.name: (PointOptions, show_matches)}
"""What a command does beside its task."""


class Evaluations(LazyGroup):
    """The commands of tasks, and `report`."""

    table = {  # noqa: RUF012 (typer makes instances, not subclasses)
        **{name: Entry("", tasks[0].about) for name, tasks in COMMANDS.items()},
        "report": Entry("featup_cli.cli.evaluate.report:report", "Merge runs into one table for each task."),
    }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and remaining arguments; makes the command."""
        if args and args[0] in COMMANDS:
            return args[0], make_command(COMMANDS[args[0]], *EXTRAS.get(args[0], ())), args[1:]
        return super().resolve_command(ctx, args)


evaluations = Evaluations(name="eval", epilog="docs/evaluation.md defines every score.")
