"""Groups of commands that import a command when it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import typer
before = set(sys.modules)
from featup_cli.cli.lazy import Entry, LazyGroup

class Inner(LazyGroup):
    table = {"deep": Entry("toy_deep:deep", "Go deep."), "broken": Entry("toy_nowhere:broken", "Never imported.")}

inner = Inner(name="inner", help="Go in.", no_args_is_help=True)

class Outer(LazyGroup):
    table = {
        "one": Entry("toy_one:one", "Do one thing."),
        "inner": Entry("toy_app:inner", "Go in."),
        "broken": Entry("toy_nowhere:broken", "Never imported."),
    }

app = typer.Typer(cls=Outer, no_args_is_help=True)

def show_version(asked: bool) -> None:
    if asked:
        typer.echo("1.2")
        raise typer.Exit

@app.callback()
def toy(version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True)) -> None:
    "A toy."

def main() -> None:
    try:
        app(prog_name="toy")
    finally:
        looked_at = {"toy_one", "toy_deep", "pydantic", "rich"}
        print("imported:", *sorted(looked_at & set(sys.modules) - before))
"""
COMMAND = """
from dataclasses import dataclass
from featup_cli.cli.command import command
from featup_cli.core.options import argument

@dataclass(frozen=True)
class Options:
    name: str = argument("A name.")

@command()
def {name}(options: Options) -> None:
    "Shown nowhere: the table has the help."
    print("got", options.name)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an application of two commands, one of them in a group, and of one that can't be imported."""
    made = tmp_path_factory.mktemp("toy")
    (made / "toy_app.py").write_text(PROGRAM)
    for name in ("one", "deep"):
        (made / f"toy_{name}.py").write_text(COMMAND.format(name=name))
    return made


def run_toy(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the application, in a process of its own."""
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); import toy_app; toy_app.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80", **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def commands(stdout: str) -> str:
    """The modules of commands that the application imported, as it says in its last line."""
    return " ".join(name for name in stdout.splitlines()[-1].split() if name.startswith("toy_"))


@pytest.mark.parametrize(
    ("arguments", "status", "text", "imported"),
    [
        (["--help"], 0, "Do one thing.", ""),
        ([], 2, "Never imported.", ""),
        (["--version"], 0, "1.2", ""),
        (["one", "--help"], 0, "Do one thing.", "toy_one"),
        (["one", "a"], 0, "got a", "toy_one"),
        (["inner", "--help"], 0, "Go deep.", ""),
        (["inner", "deep", "--help"], 0, "Go deep.", "toy_deep"),
        (["inner", "deep", "b"], 0, "got b", "toy_deep"),
        (["inner"], 2, "Go deep.", ""),
        (["one", "a", "b"], 2, "; see toy one --help", "toy_one"),
        (["iner"], 2, "error: iner: no such command; did you mean inner?", ""),
        (["inner", "dep"], 2, "error: dep: no such command; did you mean deep?", ""),
        (["nothing"], 2, "error: nothing: no such command; see toy --help", ""),
        (["--nothing", "one"], 2, "error: --nothing: no such option; see toy --help-all", ""),
    ],
    ids=str,
)
def test_only_the_command_that_is_asked_for_is_imported(
    folder: Path, arguments: list[str], status: int, text: str, imported: str
) -> None:
    found, stdout, stderr = run_toy(folder, *arguments)
    assert found == status
    assert commands(stdout) == imported
    assert text in stdout + stderr
    assert stderr.count("\n") == stderr.count("error: ") == ("error: " in text or "; see" in text)


@pytest.mark.parametrize(
    ("words", "expected", "imported"),
    [
        ("toy ", ["one", "inner", "broken"], ""),
        ("toy in", ["inner"], ""),
        ("toy inner ", ["deep", "broken"], ""),
        ("toy inner deep --he", ["--help", "--help-all"], "toy_deep"),
        ("toy --vers", ["--version"], ""),
    ],
)
def test_the_shell_completes_names_without_importing(
    folder: Path, words: str, expected: list[str], imported: str
) -> None:
    count = str(len(words.split(" ")) - 1)
    _, stdout, stderr = run_toy(folder, _TOY_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert stdout.splitlines()[:-1] == expected, stderr
    assert commands(stdout) == imported


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["one", "--help"], "imported: toy_one"),
        (["inner", "deep", "--help"], "imported: toy_deep"),
        (["inner", "--help"], "imported:"),
        (["--help"], "imported:"),
    ],
    ids=str,
)
def test_help_imports_neither_pydantic_nor_rich(folder: Path, arguments: list[str], expected: str) -> None:
    """Typer has uses for both, but to import them takes longer than to show the help."""
    assert run_toy(folder, *arguments)[1].splitlines()[-1] == expected
