"""Commands that are made from the records of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import make_dataclass
from typing import Any, Literal

import typer

from featup_cli.cli.command import command
from featup_cli.cli.console import EXIT_FAILED, Console
from featup_cli.cli.evaluate.options import EvaluationOptions, refuse_given
from featup_cli.cli.evaluate.report import finish
from featup_cli.core.options import GROUP, INPUT, METHOD, OUTPUT, REQUIRED, RUN, Declared, declared, like, option
from featup_cli.evaluation.task import Task
from featup_cli.io.replace import refuse_replacing

Instead = Callable[[Mapping[str, Any], EvaluationOptions, Console], bool]
"""Takes all options, the shared ones and the console; returns whether it has done the work itself."""

SHOWN_PROBLEMS = 20
_SECTIONS = {METHOD: 1, OUTPUT: 2, RUN: 3}


def make_command(tasks: Sequence[Task], extra: type | None = None, instead: Instead | None = None) -> Any:
    """A click command for the tasks that share it, with their own options and those of every evaluation.

    Args:
        extra: class of further options; one with the name of a shared option replaces it.
        instead: called before the task; if it returns True, the task is not run.
    """
    if len(tasks) > 1:
        choices = Literal[tuple(task.choice for task in tasks)]  # type: ignore[valid-type]
        about = "; ".join(f"{task.choice}: {task.needs}" for task in tasks) + "."
        extra = make_dataclass("Choice", [("task", choices, option(REQUIRED, about, panel=INPUT))])

    def run(options: Any) -> None:
        given = vars(options)
        task = next(task for task in tasks if task.choice == given.get("task", task.choice))
        own = {each.name: given[each.name] for each in declared(task.options)}
        for other in tasks:
            belongs = {name: given[name] for name in _flat(other.options) if name not in own}
            refuse_given(belongs, f"belongs to --task {other.choice}")
        shared = _fill(EvaluationOptions, given)
        console = Console(shared.quiet, shared.as_json)
        if instead is None or not instead(given, shared, console):
            _evaluate(task, own, shared, console)

    run.__name__, run.__doc__ = tasks[0].command or tasks[0].name, tasks[0].about
    run.__annotations__ = {"options": _options(tasks, extra)}
    return command(examples=[example for task in tasks for example in task.examples])(run)


def _evaluate(task: Task, own: dict[str, Any], shared: EvaluationOptions, console: Console) -> None:
    keywords = shared.keywords(task.reads) | {"cache": None if shared.no_cache else shared.cache}
    data = own.pop(task.data.name)
    if shared.output is not None:
        refuse_replacing(shared.output, shared.overwrite)
    console.loading(shared.backbone.backbone)

    from featup_cli.evaluation.data import DataError
    from featup_cli.evaluation.run import evaluate

    try:
        with console.progress() as progress:
            run = evaluate(task.name, data, progress=progress, note=console.note, **keywords, **own)
    except DataError as error:
        for problem in error.problems[:SHOWN_PROBLEMS]:
            console.error(problem)
        if len(error.problems) > SHOWN_PROBLEMS:
            console.error(f"and {len(error.problems) - SHOWN_PROBLEMS} more")
        raise typer.Exit(EXIT_FAILED) from None
    finish(run, shared.output, console)


def _options(tasks: Sequence[Task], extra: type | None) -> type:
    """A class of all options: first those of input and backbone, and under each heading first those of the tasks."""
    own = {name: found for task in tasks for name, found in _flat(task.options).items()}
    more = _flat(extra) if extra is not None else {}
    shared = {name: more.pop(name, found) for name, found in _flat(EvaluationOptions).items()}
    required = {name: shared.pop(name) for name in tasks[0].required}
    holding = {tasks[0].data.name: own[tasks[0].data.name]}
    for name in tasks[0].unused:
        del shared[name]
    every = [*{**holding, **required, **more, **own}.items(), *shared.items()]
    every.sort(key=lambda item: _SECTIONS.get(item[1][1].option.panel or "", 0))
    fields = [
        (name, each.kind, like(owner, name, default=REQUIRED if name in required else each.default))
        for name, (owner, each) in every
    ]
    return make_dataclass("Options", fields, frozen=True)


def _flat(group: type) -> dict[str, tuple[type, Declared]]:
    """The options of a group and of those that it holds by name, with the class that declares them."""
    found: dict[str, tuple[type, Declared]] = {}
    for each in declared(group):
        found |= _flat(each.kind) if each.option is GROUP else {each.name: (group, each)}
    return found


def _fill(group: type, values: Mapping[str, Any]) -> Any:
    """A group of those of its options that are among `values`; the others have their defaults."""
    return group(
        **{
            each.name: _fill(each.kind, values) if each.option is GROUP else values[each.name]
            for each in declared(group)
            if each.option is GROUP or each.name in values
        }
    )
