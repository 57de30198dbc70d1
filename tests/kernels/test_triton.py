"""Runs the tests of the Triton kernels in a process of their own.

Triton decides when it is imported whether it compiles kernels or interprets them, and this process may have imported
it by now. On a GPU (`--device cuda`) the same tests run on it, compiled.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.interpreter
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_kernels_in_a_process_of_their_own(device: str) -> None:
    environment = dict(os.environ, TRITON_INTERPRET="1" if device == "cpu" else "0")
    files = [f"tests/kernels/triton_{name}.py" for name in ("kernels", "configs")]
    command = [sys.executable, "-m", "pytest", "-n0", *files, "--device", device]
    finished = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
