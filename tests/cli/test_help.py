"""The help of every command, and the choices of every option."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from featup_cli.cli.app import app
from featup_cli.cli.command import parse_values
from featup_cli.core.errors import UsageError
from featup_cli.core.options import Declared


def _commands(name: str, group: Any, context: Any) -> Iterator[tuple[str, Any]]:
    for child in group.list_commands(context):
        made = group.resolve_command(context, [child])[1]
        if hasattr(made, "list_commands"):
            yield from _commands(f"{name} {child}", made, made.make_context(child, ["x"], parent=context))
        else:
            yield f"{name} {child}", made


ROOT = typer.main.get_command(app)
COMMANDS = dict(_commands("featup", ROOT, ROOT.make_context("featup", ["x"])))
GROUPS = ("featup", "featup eval")
MOST = {"featup upsample": (45, 24), "featup eval probe": (45, 24), "featup train": (45, 24), "featup": (45, 24)}
"""Lines of the short help at most, and of those lines that are about options."""
CHOICES = [(name, each) for name, made in COMMANDS.items() for each in made.options if each.choices]


def shown(name: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        ROOT.main([*name.split()[1:], flag], prog_name="featup")
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    return out


@pytest.mark.parametrize("flag", ["-h", "--help", "--help-all"])
@pytest.mark.parametrize("name", [*GROUPS, *COMMANDS])
def test_no_line_is_longer_than_the_terminal(
    name: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(name, flag, monkeypatch, capsys)
    assert text.startswith(f"Usage: {name} [OPTIONS]")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\033" not in text
    assert "…" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_all_options_are_shown_with_their_whole_text(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(name, "--help-all", monkeypatch, capsys)
    plain = " ".join(text.split())
    for each in COMMANDS[name].options:
        names = [each.title] if each.option.positional else [flag.split("/")[0] for flag in each.flags]
        for flag in names:
            assert re.search(rf"(^|[\s,]){re.escape(flag)}([\s,]|$)", text.replace("[no-]", "")), flag
        assert " ".join(each.option.help.partition("(default:")[0].split()) in plain
        assert all(choice in plain for choice in each.choices)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_shows_the_common_options_and_counts_the_others(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(name, "--help", monkeypatch, capsys)
    lines = [line.split()[0].rstrip(",") for line in text.partition("Examples:")[0].splitlines() if "  --" in line[:4]]
    options = [each for each in COMMANDS[name].options if not each.option.positional]
    count = re.search(rf"^(\d+) more options: {name} --help-all\n\Z", text, re.MULTILINE)
    assert len(lines) + int(count[1] if count else 0) == len(options)
    if count:
        common = {flag for each in options if each.option.common for flag in each.flags if flag.startswith("--")}
        assert common <= set(lines)
    else:
        assert text == shown(name, "--help-all", monkeypatch, capsys)


@pytest.mark.parametrize("name", MOST)
def test_the_short_help_fits_a_screen(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(name, "--help", monkeypatch, capsys)
    sections = re.split(r"\n(?=\w+:\n)", text)
    options = [line for each in sections if re.match(r"\w+:\n  -", each) for line in each.splitlines() if line]
    assert len(text.splitlines()) <= MOST[name][0]
    assert len([line for line in options if not line.endswith("--help-all")]) <= MOST[name][1]


@pytest.mark.parametrize("name", [*GROUPS, *COMMANDS])
def test_examples_are_copied_as_they_are_and_parse(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(name, "--help", monkeypatch, capsys)
    lines = re.sub(r" \\\n +", " ", text.partition("Examples:\n")[2]).split("\n\n")[0].splitlines()
    made = ROOT if name == "featup" else COMMANDS.get(name)
    assert [line.strip() for line in lines] == list(made.examples if made is not None else [])
    for line in lines:
        command, words = next((c, line.split(f"{c.partition(' ')[2]} ", 1)) for c in COMMANDS if _calls(line, c))
        arguments = shlex.split(words[1]) if len(words) > 1 else []
        made = COMMANDS[command]
        parse_values(made.options, made.make_context(command, arguments).params, command)


def _calls(line: str, command: str) -> bool:
    return f"{line} ".replace("featup_cli ", "featup ").find(f"{command} ") >= 0


@pytest.mark.parametrize(("name", "each"), CHOICES, ids=lambda value: value if isinstance(value, str) else value.name)
def test_choices_have_any_case_and_arrive_as_declared(name: str, each: Declared) -> None:
    def parsed(text: str) -> Any:
        given = made.make_context(name, [each.flags[0], text]).params
        return parse_values([each], given, name)[each.name]

    made = COMMANDS[name]
    for choice in each.choices:
        for text in (choice, choice.upper(), choice.title()):
            assert parsed(text) == choice
            assert type(parsed(text)) is str
    with pytest.raises(UsageError, match=f"^{each.flags[0]} {each.choices[0]}x: choose from .*; did you mean "):
        parsed(f"{each.choices[0]}x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["upsample", "a.jpg", "-m", "jbuu"], "--method jbuu: choose from .*, jbu, .*; did you mean jbu\\?"),
        (["upsampel"], "upsampel: no such command; did you mean upsample\\?"),
        (["upsample", "a.jpg", "--quite"], "--quite: no such option; did you mean --quiet\\?"),
        (["upsample", "a.jpg", "--layer", "last"], "--layer last: expected a whole number"),
        (["upsample", "a.jpg", "--max-pixels", "0"], "--max-pixels 0: must be at least 1"),
        (["upsample", "a.jpg", "--set", "optimizer=adam-w"], "optimizer=adam-w: .*; did you mean adamw\\?"),
        (["upsample", "a.jpg", "--set", "vews=3"], "--set vews=3: .*; did you mean views\\?"),
        (["upsample"], "missing IMAGE\\|FOLDER\\|LIST.txt\\|-; see featup upsample --help"),
        (["export", "a.safetensors"], "missing --to; see featup export --help"),
        (["render", "a.safetensors", "b"], "got unexpected extra argument.*; see featup render --help"),
        (["eval", "prob"], "prob: no such command; did you mean probe\\?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ROOT.main(arguments, prog_name="featup")
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert re.fullmatch(f"error: {said}\n", err)


@pytest.mark.parametrize(
    ("environment", "expected"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["a terminal", "NO_COLOR"]
)
def test_headings_are_bold_on_a_terminal(environment: dict[str, str], expected: bool) -> None:
    """On a pseudo-terminal of 60 columns; a pipe has none, as above."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    import os
    import struct

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 60, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    subprocess.run(
        [sys.executable, "-m", "featup_cli", "upsample", "-h"], stdout=theirs, check=True, env=kept | environment
    )
    text = os.read(ours, 100_000).decode()
    assert ("\033[1mInput:\033[0m" in text) is expected
    assert 55 < max(len(line) for line in text.splitlines()) <= 60
