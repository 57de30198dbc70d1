"""Runs a command in this process."""

from __future__ import annotations

import pytest
from typer.main import get_command

from featup_cli.cli.app import app

COMMAND = get_command(app)


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `featup`; any exception but an exit is let through."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        COMMAND.main([str(argument) for argument in arguments], "featup")
    return (int(ended.value.code or 0), *capfd.readouterr())
