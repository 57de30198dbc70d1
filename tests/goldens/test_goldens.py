"""The program's outside is what it was: options, JSON, files, states of networks, results on a CPU, keys.

`python -m tests.goldens.record` writes the records again, all of them or some. Where a change is meant, look at the
difference of the JSON files before you commit it. Bits are compared only on the kind of machine that recorded them
(`platform` in outputs.json): before a change that must keep them, record there first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.goldens.compare import differences, one_thread, platform_key
from tests.goldens.inputs import Inputs
from tests.goldens.options import describe_commands
from tests.goldens.records import JSON_KEYS, STATE_DICTS, training_cache
from tests.goldens.results import CASES, gradient_modules, record_case, record_gradients

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("goldens"))


@pytest.fixture(autouse=True)
def _one_thread(fixed_seed: None) -> Iterator[None]:
    with one_thread():
        yield


def recorded(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def check(old: Any, new: Any, bits: bool = False) -> None:
    # As it reads back from a file: tuples become lists.
    lines = differences(old, json.loads(json.dumps(new)), bits=bits)
    assert not lines, "\n" + "\n".join(lines[:40])


def same_platform() -> bool:
    return bool(recorded("outputs")["platform"] == platform_key())


def test_commands_have_the_recorded_options() -> None:
    check(recorded("help"), describe_commands())


@pytest.mark.parametrize("name", JSON_KEYS)
def test_json_has_the_recorded_keys(name: str, inputs: Inputs) -> None:
    check(recorded("json_keys")[name], JSON_KEYS[name](inputs))


@pytest.mark.parametrize("name", STATE_DICTS)
def test_states_have_the_recorded_names_and_shapes(name: str, inputs: Inputs) -> None:
    check(recorded("state_dicts")[name], STATE_DICTS[name](inputs))


@pytest.mark.parametrize("name", CASES)
def test_methods_give_the_recorded_results_and_keys(name: str, inputs: Inputs) -> None:
    results, request = record_case(name, inputs)
    check(recorded("outputs")["results"][name], results, bits=same_platform())
    check(recorded("keys")["requests"][name], request)


@pytest.mark.parametrize("name", gradient_modules())
def test_gradients_are_those_recorded(name: str) -> None:
    check(recorded("outputs")["gradients"][name], record_gradients(name), bits=same_platform())


def test_the_training_cache_has_the_recorded_keys(inputs: Inputs) -> None:
    check(recorded("keys")["training cache"], training_cache(inputs))


def test_all_that_is_recorded_is_compared() -> None:
    assert recorded("json_keys").keys() == JSON_KEYS.keys()
    assert recorded("state_dicts").keys() == STATE_DICTS.keys()
    assert recorded("outputs")["results"].keys() == recorded("keys")["requests"].keys() == CASES.keys()
    assert recorded("outputs")["gradients"].keys() == gradient_modules().keys()
