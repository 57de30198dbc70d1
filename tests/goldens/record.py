"""`python -m tests.goldens.record [NAME ...]`: write the records again, all or those named (`help`, `outputs`, ...)."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.goldens.compare import one_thread, platform_key
from tests.goldens.inputs import Inputs
from tests.goldens.options import describe_commands
from tests.goldens.records import JSON_KEYS, STATE_DICTS, training_cache
from tests.goldens.results import CASES, gradient_modules, record_case, record_gradients

NUMBERS = re.compile(r"\[\s+(-?[\d.e+-]+(?:,\s+-?[\d.e+-]+)*)\s+\]")


def records(inputs: Inputs, wanted: set[str]) -> dict[str, Any]:
    """All records by the name of their file."""
    found: dict[str, Any] = {"help": describe_commands()}
    if "json_keys" in wanted:
        found["json_keys"] = {name: make(inputs) for name, make in JSON_KEYS.items()}
    if "state_dicts" in wanted:
        found["state_dicts"] = {name: make(inputs) for name, make in STATE_DICTS.items()}
    if wanted & {"outputs", "keys"}:
        cases = {name: record_case(name, inputs) for name in CASES}
        gradients = {name: record_gradients(name) for name in gradient_modules()}
        results = {name: case[0] for name, case in cases.items()}
        found["outputs"] = {"platform": platform_key(), "results": results, "gradients": gradients}
        requests = {name: case[1] for name, case in cases.items()}
        found["keys"] = {"requests": requests, "training cache": training_cache(inputs)}
    return {name: record for name, record in found.items() if name in wanted}


def main(names: list[str]) -> None:
    """Record and write."""
    folder = Path(__file__).parent
    wanted = set(names) or {"help", "json_keys", "state_dicts", "outputs", "keys"}
    with tempfile.TemporaryDirectory() as temporary, one_thread():
        for name, record in records(Inputs(Path(temporary)), wanted).items():
            text = json.dumps(record, indent=1, ensure_ascii=False)
            text = NUMBERS.sub(lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
