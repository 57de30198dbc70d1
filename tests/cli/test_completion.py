"""What shells offer, asked for as the scripts of `featup --install-completion` ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from featup_cli.backbones.registry import ALIASES
from featup_cli.cli.app import app
from featup_cli.exporting.registry import FORMATS
from featup_cli.upsamplers.registry import METHODS, TRAINABLE
from featup_cli.upsamplers.weights.releases import all_releases

PROGRAM = """
import sys
from featup_cli.__main__ import main
try:
    main()
finally:
    print("loaded:", *sorted({"torch", "timm"} & set(sys.modules)), file=sys.stderr)
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def bash(words: str) -> list[str]:
    """What bash offers for the last word, which may be empty; no library is loaded for it."""
    count = str(len(words.split(" ")) - 1)
    done = run(_FEATUP_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert done.stderr.split() == ["loaded:"]
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("featup upsample --method ", list(METHODS)),
        ("featup upsample --method j", ["jbu"]),
        ("featup upsample -m j", ["jbu"]),
        ("featup train --method ", list(TRAINABLE)),
        ("featup upsample --backbone ", list(ALIASES)),
        ("featup import-weights -b ti", ["tiny"]),
        ("featup upsample --upsampler ", ["auto", "paper", *all_releases()]),
        ("featup eval probe --methods ", ["fast", "all", *METHODS]),
        ("featup compare --methods bilinear,jbu,res", ["bilinear,jbu,resfu", "bilinear,jbu,resize-conv"]),
        ("featup compare --methods jbu,jb", []),
        ("featup export --to ", list(FORMATS)),
        ("featup upsample --output-size i", ["image"]),
        ("featup upsample --device c", ["cpu", "cuda"]),
        ("featup upsample --prec", ["--precision"]),
        ("featup ev", ["eval"]),
        # Shells offer files where featup offers nothing.
        ("featup upsample ", []),
        ("featup upsample --weights ", []),
        ("featup upsample --config ", []),
        ("featup export a", []),
        ("featup upsample --backbone vit_base_pa", []),
    ],
)
def test_bash_is_offered_the_values(words: str, expected: list[str]) -> None:
    assert bash(words) == expected


def test_zsh_and_fish_are_offered_the_same() -> None:
    zsh = run(_FEATUP_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="featup upsample --method resi")
    assert zsh.stdout.strip() == """_arguments '*: :(("resize-conv"))'"""
    files = run(_FEATUP_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="featup upsample --weights a")
    assert files.stdout.strip() == "_files"
    asked = {"_FEATUP_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "featup upsample --backbone dino-"}
    fish = run(**asked, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert fish.stdout.split() == ["dino-base", "dino-base8"]
    assert run(**asked, _TYPER_COMPLETE_FISH_ACTION="is-args").returncode == 0
    asked |= {"_TYPER_COMPLETE_ARGS": "featup upsample a"}
    files = run(**asked, _TYPER_COMPLETE_FISH_ACTION="is-args")
    assert files.returncode == 1
    for done in (zsh, fish):
        assert done.stderr.split() == ["loaded:"]


def commands(command: Any, parent: Any = None, name: str = "featup") -> Any:
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    if not hasattr(command, "list_commands"):
        return [(command, context)]
    names = command.list_commands(context)
    inner = [(command.resolve_command(context, [name])[1], name) for name in names]
    return [found for each, name in inner for found in commands(each, context, name)]


def test_every_choice_of_every_command_is_offered() -> None:
    tried = 0
    for command, context in commands(typer.main.get_command(app)):
        choices = {each.name: each.choices for each in command.options}
        for parameter in command.params:
            if choices[parameter.name]:
                offered = [item.value for item in parameter.shell_complete(context, "")]
                assert offered == list(choices[parameter.name])
                tried += 1
    assert tried > 20


def test_completion_reads_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "featup.toml").write_text("broken")
    monkeypatch.chdir(tmp_path)
    assert bash("featup upsample --method bil") == ["bilinear"]


@pytest.mark.parametrize(
    ("shell", "written"),
    [
        ("bash", ".bash_completions/featup.sh"),
        ("zsh", ".zfunc/_featup"),
        ("fish", ".config/fish/completions/featup.fish"),
    ],
)
def test_completion_is_installed(tmp_path: Path, shell: str, written: str) -> None:
    done = run("--install-completion", shell, HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0, done.stderr
    assert "_FEATUP_COMPLETE=complete_" in (tmp_path / written).read_text()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_installed_script_works_in_bash(tmp_path: Path) -> None:
    program = tmp_path / "featup"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m featup_cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(
        run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    )
    asked = "COMP_WORDS=(featup upsample --method j); COMP_CWORD=3; _featup_completion featup; echo ${COMPREPLY[@]}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f"source {tmp_path}/script; {asked}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.stdout == "jbu\n"
