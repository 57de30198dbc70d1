"""An operation of another package: an entry point is all that it takes, and without it nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MODULES = {
    "toy_scaling/__init__.py": """
        from featup_kernels.operation import Operation

        OPERATION = Operation("toy_scaling", "multiplies every pixel by a weight", "none", package="toy_scaling")
    """,
    "toy_scaling/op.py": """
        from featup_kernels.dispatch import choose_backend

        def toy_scaling(source, taps, *, backend="auto"):
            assert choose_backend("toy_scaling", backend, source.device.type, source.dtype) == "reference"
            return source * taps
    """,
    "toy_scaling/cases.py": """
        from featup_kernels.cases import Cases, output_shape
        from toy_scaling.op import toy_scaling

        def shapes(case):
            return {"source": output_shape(case), "taps": (case.batch, 1, *case.size)}

        def run(case, backend, source, taps):
            return toy_scaling(source, taps, backend=backend)

        def loop(case, source, taps):
            return source * taps

        def cut(case, batch, channels, rows):
            return (batch, channels, rows), (batch, slice(None), rows)

        CASES = Cases(shapes, run, loop, cut)
    """,
    "toy_scaling-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy-scaling\nVersion: 1\n",
    "toy_scaling-1.dist-info/entry_points.txt": "[featup.operations]\ntoy_scaling = toy_scaling:OPERATION\n",
}
BROKEN = "[featup.operations]\nnothing = no_such_module:OPERATION\ntaken = featup_kernels.range_taps:OPERATION\n"
HELP = "from featup_cli.cli.app import app; app(['bench', '--help-all'])"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


def run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, which finds packages in these folders first."""
    path = os.pathsep.join([*map(str, folders), *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])])
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "120"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return done


def test_another_packages_operation_is_listed_without_torch_and_measured(package: Path) -> None:
    code = """
        import sys
        from featup_kernels.registry import OPERATIONS
        assert "toy_scaling" in OPERATIONS and "torch" not in sys.modules
        from featup_cli.benchmarking.run import benchmark
        options = dict(op="toy_scaling", baselines="loop", repeat=1, budget=0.01, device="cpu")
        for backward in (False, True):
            row = benchmark("2x4x6x3x1", backward=backward, **options)["rows"][0]
            assert row["backend"] == "reference" and row["baselines"]["loop"]["ratio"] > 0, row
        import torch
        from featup_kernels import toy_scaling
        from featup_kernels.dispatch import BackendError
        try:
            toy_scaling(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), backend="cpu")
        except BackendError as error:
            assert str(error) == "toy_scaling: backend 'cpu' can't run: it has none; available: reference"
    """
    run(code, package)
    assert "toy_scaling" in run(HELP, package).stdout


def test_nothing_is_left_without_the_package() -> None:
    assert "toy_scaling" not in run(HELP).stdout


def test_what_can_not_be_loaded_is_left_out_with_a_warning(package: Path) -> None:
    (package / "toy_scaling-1.dist-info" / "entry_points.txt").write_text(BROKEN)
    done = run("import featup_kernels; print(len(featup_kernels.OPERATIONS))", package)
    assert done.stdout.strip() == run("import featup_kernels; print(len(featup_kernels.OPERATIONS))").stdout.strip()
    assert "no_such_module:OPERATION can't be loaded (ModuleNotFoundError" in done.stderr
    assert "has the name range_taps, which is taken" in done.stderr
