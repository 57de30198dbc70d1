"""Commands made of groups of options, beside the same written for typer by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
import typer.main

from featup_cli.cli.command import command
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.options import REQUIRED, Given, argument, group, like, option, optional_fields

COLORS = ("red", "dark-blue")


@dataclass(frozen=True)
class FitConfig:
    """Settings of a library, some of them options."""

    steps: int = option(150, "steps at most.", min=1)
    hidden: int = 64
    weight: float = option(0.0, "prior.")
    clean: bool = option(True, "leave out noise.")
    dark: bool = option(False, "see in the dark.", "--dark/--light")
    kernel: Literal["box", "tent"] = option("box", "shape of the kernel.")


@optional_fields(FitConfig, prefix="fit: ", first=("weight",))
class FitOptions(Given):
    """Settings of the fit that were given."""

    PANEL = "Method"


@dataclass(frozen=True)
class Files:
    """Arguments, and an option that must be given after one that need not."""

    PANEL = "Input"

    files: tuple[Path, ...] = argument("Files to read.", metavar="FILE")
    size: str | None = option(None, "Size. (default: the file's)")
    output: Path = option(REQUIRED, "Where to write.", "-o", "--output", panel="Output")


@dataclass(frozen=True)
class More:
    """Options of every kind."""

    PANEL = "Method"

    color: str = option("red", "Colour.", "--color", "-c", choices=lambda: COLORS)
    fit: FitOptions = group()
    settings: tuple[str, ...] = option((), "Any setting.", "--set", metavar="KEY=VALUE")
    number: int = option(3, "Number.", min=1, max=9)
    picture: bool = option(True, "Write a picture.")
    device: str = option("auto", "Device.", panel="Run")
    as_json: bool = option(False, "JSON.", "--json", panel="Run")

    def __post_init__(self) -> None:
        if self.number == 7:
            raise UsageError("--number 7: not\nthat one")


calls: list[tuple[Files, More]] = []


@command(examples=["toy a", "toy b --number 2"])
def toy(files: Files, more: More) -> None:
    """Do something."""
    if more.number == 8:
        raise InputError("can't be read")
    if more.number == 9:
        raise KeyError("a fault")
    calls.append((files, more))


def by_hand(
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE")] = None,
    *,
    size: Annotated[str | None, typer.Option("--size")] = None,
    output: Annotated[str | None, typer.Option("-o", "--output")] = None,
    color: Annotated[str | None, typer.Option("--color", "-c")] = None,
    weight: Annotated[str | None, typer.Option("--weight")] = None,
    steps: Annotated[str | None, typer.Option("--steps")] = None,
    clean: Annotated[bool | None, typer.Option("--clean/--no-clean")] = None,
    dark: Annotated[bool | None, typer.Option("--dark/--light")] = None,
    kernel: Annotated[str | None, typer.Option("--kernel")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    number: Annotated[str | None, typer.Option("--number")] = None,
    picture: Annotated[bool | None, typer.Option("--picture/--no-picture")] = None,
    device: Annotated[str | None, typer.Option("--device")] = None,
    as_json: Annotated[bool | None, typer.Option("--json")] = None,
    config: Annotated[str | None, typer.Option("--config", metavar="FILE", is_eager=True)] = None,
) -> None:
    """Do something."""


def run(asked: Any, *arguments: str) -> int:
    """Exit status of a click command."""
    with pytest.raises(SystemExit) as ended:
        asked.main(list(arguments), prog_name="toy")
    return int(ended.value.code or 0)


def called(*arguments: str) -> tuple[Files, More]:
    calls.clear()
    assert run(toy, "a", "-o", "out", *arguments) == 0
    return calls[0]


def facts(parameter: Any) -> dict[str, Any]:
    """What click knows of a parameter."""
    names = ("name", "opts", "secondary_opts", "required", "nargs", "multiple", "is_flag", "metavar", "envvar")
    return {"class": type(parameter).__name__, **{name: getattr(parameter, name, None) for name in names}}


def test_parameters_are_those_of_the_command_written_by_hand() -> None:
    app = typer.Typer(add_completion=False)
    app.command("toy")(by_hand)
    assert [facts(each) for each in toy.params] == [facts(each) for each in typer.main.get_command(app).params]


def test_groups_hold_plain_values() -> None:
    files, more = called("b", "--color", "dark-blue", "--set", "x=1", "--set", "y=2", "--kernel", "tent", "--no-clean")
    assert files == Files(files=(Path("a"), Path("b")), output=Path("out"))
    assert type(more.color) is str
    assert more.color == "dark-blue"
    assert more.settings == ("x=1", "y=2")
    assert more.fit.given() == {"clean": False, "kernel": "tent"}
    assert type(more.fit.given()["kernel"]) is str


def test_what_is_not_given_has_the_default_of_its_field() -> None:
    assert called()[1] == More(fit=FitOptions())
    assert More(fit=FitOptions()).fit.given() == {}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--number", "7"], 2, "error: --number 7: not that one\n"),
        (["--number", "8"], 1, "error: can't be read\n"),
        (["--number", "10"], 2, "error: --number 10: must be between 1 and 9\n"),
        (["--number", "two"], 2, "error: --number two: expected a whole number\n"),
        (["--weight", "much"], 2, "error: --weight much: expected a number\n"),
        (["--steps", "0"], 2, "error: --steps 0: must be at least 1\n"),
        (["--color", "green"], 2, "error: --color green: choose from red, dark-blue\n"),
        (["-c", "Darkblue"], 2, "error: --color Darkblue: choose from red, dark-blue; did you mean dark-blue?\n"),
        (["--kernel", "bx"], 2, "error: --kernel bx: choose from box, tent; did you mean box?\n"),
        (["--colour", "red"], 2, "error: --colour: no such option; did you mean --color?\n"),
        (["--zzz"], 2, "error: --zzz: no such option; see toy --help-all\n"),
        (["--kernel"], 2, "error: --kernel: requires an argument; see toy --help\n"),
        (["--json=1"], 2, "error: --json: does not take a value; see toy --help\n"),
    ],
)
def test_errors_are_reported_with_their_status(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(toy, "a", "-o", "out", *arguments) == status
    assert capsys.readouterr() == ("", message)


def test_faults_keep_their_traceback() -> None:
    with pytest.raises(KeyError, match="a fault"):
        toy.main(["a", "-o", "out", "--number", "9"], prog_name="toy")


def test_required_options_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toy, "a") == run(toy, "-o", "out") == 2
    assert capsys.readouterr().err == "error: missing -o; see toy --help\nerror: missing FILE; see toy --help\n"


def test_a_command_has_each_option_once() -> None:
    @dataclass(frozen=True)
    class Other:
        color: str = like(More, "color", default="dark-blue", help="Another.")

    def twice(more: More, other: Other) -> None:
        """Never made."""

    twice.__annotations__ = {"more": More, "other": Other}
    with pytest.raises(ValueError, match="color"):
        command()(twice)


def test_an_option_can_be_declared_like_another_with_changes(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Other:
        color: str = like(More, "color", default="dark-blue", help="Another.")

    def other(options: Other) -> None:
        """Say the colour."""
        print(options.color)

    other.__annotations__ = {"options": Other}
    made = command(examples=["other"])(other)
    declared, config = made.options
    assert config.name == "config"
    assert (declared.flags, declared.option.help, declared.option.panel) == (("--color", "-c"), "Another.", "Method")
    assert run(made) == 0
    assert capsys.readouterr().out == "dark-blue\n"
    with pytest.raises(KeyError, match="nothing"):
        like(More, "nothing")


def test_settings_stay_a_dataclass_like_any_other() -> None:
    assert FitConfig() == FitConfig(150, 64, 0.0, True, False, "box")
    with pytest.raises(TypeError, match="output"):
        Files(files=())
