"""Values of options from settings files and variables, for every option of every command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer.main
from typer.testing import CliRunner

from featup_cli.cli.app import app
from featup_cli.cli.command import parse_values
from featup_cli.cli.config import CONFIG, Settings, key_of, variable_of
from featup_cli.core.errors import UsageError
from featup_cli.core.options import REQUIRED, Declared

ROOT = typer.main.get_command(app)
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, without variables of featup."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FEATUP_")]:
        monkeypatch.delenv(name)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(*arguments: object, status: int = 2) -> str:
    """The one line on stderr of a command that fails."""
    result = run(*arguments)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, line[:7]) == (status, "error: ")
    return line[7:]


def commands(command: Any = ROOT, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its names, `eval probe` with two."""
    if not hasattr(command, "list_commands"):
        yield names, command
        return
    context = command.context_class(command, info_name="featup")
    for name in command.list_commands(context):
        yield from commands(command.resolve_command(context, [name])[1], (*names, name))


COMMANDS = dict(commands())
OPTIONS = [
    pytest.param(names, each, id=f"{' '.join(names)} {each.flags[0]}")
    for names, command in COMMANDS.items()
    for each in command.options
    if not each.option.positional and each is not CONFIG
]


def parse(names: tuple[str, ...], *arguments: str, but: Sequence[Declared] = ()) -> Any:
    """The context of a command that has parsed what is given, and something for all that it requires but some."""
    command, context = COMMANDS[names], None
    for each in command.options:
        if each.default is REQUIRED and not each.option.positional and each not in but:
            arguments = (*typed(each, samples(each)[0]), *arguments)
    words = ["word" for each in command.options if each.option.positional and each.default is REQUIRED]
    for name in ("featup", *names[:-1]):
        command = ROOT if context is None else command.resolve_command(context, [name])[1]
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    return COMMANDS[names].make_context(names[-1], [*arguments, *words], parent=context)


def values(names: tuple[str, ...], *arguments: str, but: Sequence[Declared] = ()) -> dict[str, Any]:
    """The values of a command's options, by name; arguments as `parse`."""
    return values_of(parse(names, *arguments, but=but))


def values_of(context: Any) -> dict[str, Any]:
    return parse_values(context.command.options, context.params, "featup")


def samples(each: Declared) -> tuple[Any, Any]:
    """Two values of an option."""
    kinds = get_args(each.kind)
    kind = each.kind if get_origin(each.kind) is tuple else next((k for k in kinds if k is not type(None)), each.kind)
    if each.choices:
        return each.choices[0], each.choices[-1]
    if get_origin(kind) is tuple:
        return ["a", "b"], ["c"]
    low = max(1, int(each.option.min or 0))
    high = each.option.max or low + 2
    return {bool: (True, False), int: (low, low + 1), float: (high / 2, high)}.get(kind, ("a", "b"))


def typed(each: Declared, value: Any) -> list[str]:
    """The words of a command line that give the value."""
    if isinstance(value, bool):
        names = each.flags[0].split("/")
        return [names[0]] if value else names[1:]
    return [word for part in (value if isinstance(value, list) else [value]) for word in (each.flags[0], str(part))]


def write(names: tuple[str, ...], each: Declared, value: Any, dash: str = "-") -> None:
    Path("featup.toml").write_text(f"[{'.'.join(names)}]\n{key_of(each).replace('-', dash)} = {json.dumps(value)}\n")


@pytest.mark.parametrize(("names", "each"), OPTIONS)
def test_every_option_can_be_set_by_file_and_variable_and_flags_win(
    names: tuple[str, ...], each: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = samples(each)
    # A switch without a --no- form can only be turned on.
    first, second = (second, first) if second is False and len(typed(each, False)) == 0 else (first, second)
    given = [value for value in (first, second) if value]
    expected = {str(value): values(names, *typed(each, value), but=[each])[each.name] for value in given}
    expected["False"] = False
    write(names, each, first)
    assert values(names, but=[each])[each.name] == expected[str(first)]
    assert values(names, *typed(each, second), but=[each])[each.name] == expected[str(second)]
    write(names, each, second, dash="_")
    assert values(names, but=[each])[each.name] == expected[str(second)]
    if each.option.own:
        return
    for words in (first, second), (second, first):
        texts = [" ".join(word) if isinstance(word, list) else str(word) for word in words]
        write(names, each, words[1])
        monkeypatch.setenv(variable_of(each), texts[0])
        assert values(names, but=[each])[each.name] == expected[str(words[0])]
    assert values(names, *typed(each, first or second), but=[each])[each.name] == expected[str(first or second)]


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_settings_are_printed_as_a_file_that_gives_the_same_settings(names: tuple[str, ...]) -> None:
    options = [each for each in COMMANDS[names].options if not each.option.positional and each is not CONFIG]
    words = [word for each in options for word in typed(each, samples(each)[0])]
    given = parse(names, *words, but=options)
    printed = Settings.of(given, values_of(given)).toml()
    assert printed.splitlines()[0] == f"[{'.'.join(names)}]"
    assert printed.count("# flag") == len(options)
    Path("other.toml").write_text(printed)
    again = parse(names, "--config", "other.toml", but=options)
    different = {each.name for each in options if values_of(again)[each.name] != values_of(given)[each.name]}
    assert different == set()


def test_a_dry_run_prints_the_settings_and_where_they_are_from(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("featup.toml").write_text('backbone = "tiny"\nseed = 3\n[upsample]\noutput_size = 512\nmethod = "bilinear"\n')
    monkeypatch.setenv("FEATUP_METHOD", "implicit")
    monkeypatch.setenv("FEATUP_DEBUG", "1")  # no option
    asked = ("upsample", photo, "--dry-run")
    first = run(*asked, "--set", "views=3", "--set", "precision=float32", "--no-picture")
    *settings, summary = first.stderr.splitlines()
    assert settings == [
        "[upsample]",
        'backbone = "tiny"  # featup.toml',
        'method = "implicit"  # FEATUP_METHOD',
        'set = ["views=3", "precision=float32"]  # flag',
        'output-size = "512"  # featup.toml',
        "picture = false  # flag",
        "seed = 3  # featup.toml",
    ]
    assert summary.startswith("would create 1")
    monkeypatch.delenv("FEATUP_METHOD")
    Path("featup.toml").write_text("\n".join(settings))
    again = run(*asked)
    plain = [line.partition("  # ")[0] for line in again.stderr.splitlines()]
    assert plain == [*(line.partition("  # ")[0] for line in settings), summary]
    assert again.stdout == first.stdout
    as_json = run(*asked, "--json")
    assert as_json.stderr == ""
    assert json.loads(as_json.stdout)["action"] == "make"


def test_without_settings_a_dry_run_names_backbone_and_method(photo: Path) -> None:
    printed = run("upsample", photo, "--dry-run").stderr.splitlines()
    assert printed[:-1] == ["[upsample]", 'backbone = "tiny"  # default', 'method = "implicit"  # default']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bakbone = 'tiny'", "bakbone: no such option; did you mean backbone?"),
        ("zzz = 1", "zzz: no such option"),
        ("[upsample]\nmetod = 'jbu'", "[upsample] metod: no such option; did you mean method?"),
        ("[upsample]\ncomponents = 3", "[upsample] components: no such option"),
        ("[upsample]\nimages = ['a.jpg']", "[upsample] images: no such option"),
        ("[upsample.method]\nname = 'jbu'", "[upsample] method: expected a text in quotes, not a table"),
        ("[upsampel]\nmethod = 'jbu'", "[upsampel]: no such command; did you mean upsample?"),
        ("[eval.prob]\nseed = 1", ""),
        ("[upsample]\npicture = 'no'", '[upsample] picture: expected true or false, not "no"'),
        ("picture = 1", "picture: expected true or false, not 1"),
        ("seed = '1'", 'seed: expected a whole number, not "1"'),
        ("layer = 1.5", "layer: expected a whole number, not 1.5"),
        ("layer = true", "layer: expected a whole number, not true"),
        ("backbone = false", "backbone: expected a text in quotes, not false"),
        ("backbone = ['a']", 'backbone: expected a text in quotes, not ["a"]'),
        ("weights = 1", "weights: expected a path in quotes, not 1"),
        ("set = 'views=3'", "set: expected a list, as in set = [...]"),
        ("set = [true]", "set: expected a text in quotes, not true"),
        ("tv-weight = 'x'", 'tv-weight: expected a number, not "x"'),
        ("[upsample]\nmax-pixels = 0", "--max-pixels 0: must be at least 1 (a.toml: [upsample] max-pixels)"),
        ("method = 'zzzjbu'", "; did you mean jbu? (a.toml: method)"),
        ("seed =", "is not TOML: "),
    ],
)
def test_what_a_file_says_wrongly_is_one_line_with_the_place(photo: Path, text: str, message: str) -> None:
    Path("a.toml").write_text(text)
    asked = ("upsample", photo, "--dry-run", "--config", "a.toml")
    if message:
        status = 1 if "not TOML" in message else 2
        line = refused(*asked, status=status)
        assert line.endswith(message) if "a.toml" in message else line.startswith(f"a.toml: {message}")
    else:  # a table of another command is left to it
        assert run(*asked).exit_code == 0
        assert refused("eval", "report", "x.json", "--config", "a.toml") == (
            "a.toml: [eval.prob]: no such command; did you mean probe?"
        )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("FEATUP_PICTURE", "maybe", 'FEATUP_PICTURE: expected true or false, not "maybe"'),
        ("FEATUP_METHOD", "zzz", "--method zzz: choose from "),
        ("FEATUP_LAYER", "x", "--layer x: expected a whole number (FEATUP_LAYER)"),
        ("FEATUP_RESIZE", "0", "--resize 0: must be at least 1 pixel (FEATUP_RESIZE)"),
        ("FEATUP_WEIGHTS", "nope.pt", "--weights nope.pt: no such file (FEATUP_WEIGHTS)"),
        ("FEATUP_CONFIG", "nope.toml", "FEATUP_CONFIG nope.toml: no such file"),
    ],
)
def test_what_a_variable_says_wrongly_is_one_line_that_names_it(
    photo: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    monkeypatch.setenv(name, text)
    line = refused("upsample", photo, "--dry-run", status=1 if "no such file" in message else 2)
    assert line.startswith(message)


def test_an_error_that_a_value_of_a_file_causes_later_names_the_place(photo: Path) -> None:
    Path("featup.toml").write_text("memory = 2\n")
    assert (
        refused("upsample", photo) == "--memory 2: is a number of bytes; give a unit, as in 2GB (featup.toml: memory)"
    )


def test_what_a_file_gives_for_other_methods_is_no_error(photo: Path) -> None:
    Path("featup.toml").write_text("save-model = true\nmethod = 'bilinear'\nresize = 32\nmax-steps = 3\n")
    assert run("upsample", photo).exit_code == 0
    assert sorted(path.name for path in Path("features").iterdir()) == ["photo.png", "photo.safetensors"]


def test_tables_go_above_top_level_keys_whatever_their_order() -> None:
    Path("featup.toml").write_text("seed = 1\n[eval]\nseed = 2\nfast = false\n[eval.probe]\nseed = 3\n")
    seeds = {names: values(names).get("seed") for names in COMMANDS}
    assert seeds[("upsample",)] == seeds[("train",)] == seeds[("bench",)] == 1
    assert seeds[("eval", "probe")] == 3
    assert {seeds[names] for names in COMMANDS if names[0] == "eval"} == {2, 3, None}
    assert values(("eval", "cam"))["fast"] is False


def test_keys_for_other_commands_are_no_error_and_give_nothing_that_is_a_command_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("featup.toml").write_text('components = 5\nto = "npy"\noutput = "out"\nbackbone = "dinov2"\njson = true\n')
    monkeypatch.setenv("FEATUP_BACKBONE", "dinov2")
    monkeypatch.setenv("FEATUP_JSON", "1")
    monkeypatch.setenv("FEATUP_OUTPUT", "out")
    assert values(("import-weights",))["backbone"] is None
    assert values(("bench",))["json_file"] is None
    assert str(values(("upsample",))["output"]) == "out"
    output = next(each for each in COMMANDS[("train",)].options if each.name == "output")
    with pytest.raises(UsageError, match="missing -o"):
        values(("train",), but=[output])


def test_the_example_in_the_docs_is_taken_by_every_command() -> None:
    example = (DOCS / "configuration.md").read_text().partition("```toml\n")[2].partition("```")[0]
    Path("featup.toml").write_text(example)
    missing = {("import-weights",): ["output"], ("export",): ["to"]}
    found = {}
    for names, command in COMMANDS.items():
        inside = [each for each in command.options if each.name not in missing.get(names, ())]
        found[names] = values(names, but=inside)
    assert found[("upsample",)]["settings"] == ("views=500",)
    assert found[("eval", "probe")]["task"] == "seg"
    assert found[("train",)]["backbone"] == found[("compare",)]["backbone"] == "dinov2"
    assert found[("import-weights",)]["backbone"] is None


def test_one_file_is_read_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("featup.toml", "variable.toml", "flag.toml")):
        Path(name).write_text(f"{('seed', 'jobs', 'batch')[number]} = 7\n")
    found = [values(("upsample",))]
    monkeypatch.setenv("FEATUP_CONFIG", "variable.toml")
    found += [values(("upsample",)), values(("upsample",), "--config", "flag.toml")]
    assert [each["seed"] for each in found] == [7, 0, 0]
    assert [each["jobs"] for each in found] == [None, 7, None]
    assert [each["batch"] for each in found] == [None, None, 7]
    assert refused("info", "--config", "nope.toml", status=1) == "--config nope.toml: no such file"
    assert refused("info", "--config", ".", status=1) == ".: can't be read: Is a directory"


def test_only_who_has_a_file_needs_what_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    assert values(("upsample",))["seed"] == 0
    Path("featup.toml").write_text("seed = 1\n")
    assert refused("info", status=1).endswith("pip install tomli")


def test_a_path_in_a_file_may_start_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("featup.toml").write_text('output = "~/out"\n')
    assert str(values(("upsample",))["output"]) == str(tmp_path / "out")


def test_help_and_completion_read_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("featup.toml").write_text("broken")
    assert run("upsample", "--help").exit_code == 0
    assert ROOT.make_context("featup", ["upsample"], resilient_parsing=True)
    command = COMMANDS[("upsample",)]
    assert command.make_context("upsample", [], resilient_parsing=True).params["seed"] is None
