"""What the documents tell people to type: Python runs, and every command line is one that `featup` understands."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from PIL import Image

import featup_cli as featup
from featup_cli.cli.app import app
from featup_cli.cli.command import parse_values
from featup_cli.engine import pipeline
from featup_cli.upsamplers.registry import make_upsampler

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "featup_cli/weights/README.md", "docs/*.md")
SHORT_FIT = featup.ImplicitConfig(views=3, heldout_views=1, max_steps=1, tokens=32, hidden=16, components=8)


class Block(NamedTuple):
    """A block of code; `needs` is what a comment `<!-- needs: ... -->` above it says, or nothing."""

    document: str
    language: str
    code: str
    needs: str | None


def blocks(text: str, document: str = "") -> Iterator[Block]:
    """The fenced blocks of a Markdown text."""
    pattern = r"(?:^<!-- needs: (.+) -->\n+)?^```(\w+)\n(.*?)^```$"
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        yield Block(document, match[2], match[3], match[1])


BLOCKS = [
    block
    for pattern in DOCUMENTS
    for path in sorted(ROOT.glob(pattern))
    for block in blocks(path.read_text(), str(path.relative_to(ROOT)))
]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def command_lines(code: str) -> Iterator[list[str]]:
    """The arguments of every `featup` in a block of shell, also within quotes (`--wrap 'featup ...'`)."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\||>", re.sub(r"(^|\s)#.*", "", line)):
            if found := re.search(r"(?:^|[\s/'])featup(?:_cli)?\s+(.+)", part):
                arguments = found[1].strip()
                yield shlex.split(arguments.removesuffix("'") if arguments.count("'") % 2 else arguments)


def filled(document: str, line: list[str]) -> list[str]:
    """A command line with values for what stands for others: letters that the document explains, and `...`."""
    meant = dict(re.findall(r"^- `(\w)` stands for `(.+?)`", (ROOT / document).read_text(), re.MULTILINE))
    words = " ".join(meant.get(word, word) for word in line if word != "...")
    return words.replace("--method NAME", "--method jbu").replace("=STEPS", "=9").replace(",...", "").split()


LINES = [
    pytest.param(filled(block.document, line), id=f"{block.document}: {' '.join(line)}")
    for block in BLOCKS
    if block.language == "sh"
    for line in command_lines(block.code)
]


def parse(arguments: list[str]) -> None:
    """Parse a command line as `featup` does, but run nothing; click's error for one that it doesn't understand."""
    command: Any = typer.main.get_command(app)
    name, rest = "featup", arguments
    while hasattr(command, "resolve_command") and rest and not rest[0].startswith("-"):
        name, command, rest = command.resolve_command(command.context_class(command), rest)
    context = command.make_context(name, list(rest))
    parse_values(command.options, context.params, name)


@pytest.mark.parametrize("arguments", LINES)
def test_a_documented_command_line_is_understood(arguments: list[str]) -> None:
    parse(arguments)


def test_command_lines_are_found() -> None:
    code = "x && a/featup info 'b c' > d  # e\nrun --wrap 'featup info e -r'\npip install featup-cli\nfeatup a \\\n b"
    assert list(command_lines(code)) == [["info", "b c"], ["info", "e", "-r"], ["a", "b"]]


@pytest.mark.parametrize("line", ["upsample a.jpg --methud jbu", "upsampel a.jpg", "eval probe D --task no"])
def test_other_command_lines_are_not(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|choose from"):
        parse(line.split())


def check_calls(code: str) -> int:
    """Bind every call of what a block imports to its signature; TypeError for one that can't be. How many there are."""
    tree = ast.parse(code)
    names: dict[str, Any] = {"featup": featup}
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "<block>", "exec"), names)
    count = 0
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, *rest = ast.unparse(call.func).split(".")
        if first in names and all(map(str.isidentifier, rest)):
            thing = names[first]
            for name in rest:
                thing = getattr(thing, name)
            if not inspect.isbuiltin(thing) and thing.__module__.partition(".")[0] != "torch":
                inspect.signature(thing).bind(*call.args, **{str(each.arg): each.value for each in call.keywords})
                count += 1
    return count


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.document)
def test_documented_calls_exist(block: Block) -> None:
    assert check_calls(block.code) > 0


@pytest.mark.parametrize("code", ["featup.upsample('a', methud='jbu')", "featup.upsampel('a')", "featup.visualize()"])
def test_other_calls_are_seen(code: str) -> None:
    with pytest.raises((TypeError, AttributeError)):
        check_calls(code)


@pytest.mark.parametrize("document", sorted({block.document for block in PYTHON if block.needs is None}))
def test_documented_python_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name in ("photo.jpg", "photos/a.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)

    def make(*given: Any, **named: Any) -> Any:
        short = {"config": SHORT_FIT} if isinstance(named.get("config"), featup.ImplicitConfig) else {}
        return make_upsampler(*given, **named | short)

    monkeypatch.setattr(pipeline, "make_upsampler", make)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in PYTHON:
        if block.document == document and block.needs is None:
            exec(compile(block.code, document, "exec"), names)
    if document == "README.md":  # what its comments say
        assert names["features"].dtype == np.float32
        assert names["features"].ndim == 3
        assert names["lr_feats"].shape[:2] == (1, 96)
        assert names["hr_feats"].shape == (1, 96, 48, 64)
        assert names["record"].status == "done"
