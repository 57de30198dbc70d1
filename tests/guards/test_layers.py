"""Imports run down the floors, without circles (docs/architecture.md)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guards.sources import PACKAGES, ROOT, imports, modules


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other: what is left when modules without an open end are taken away."""
    left = {name: set(targets) for name, targets in graph.items()}
    while True:
        ends = {name for name, targets in left.items() if not targets & left.keys()}
        starts = left.keys() - set().union(*left.values()) if left else set()
        if not ends | starts:
            return [sorted(left)] if left else []
        left = {name: targets for name, targets in left.items() if name not in ends | starts}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="needs import-linter (extra `lint`)")
    (root / "featup_kernels").symlink_to(root / "kernels") if not (root / "featup_kernels").exists() else None
    program = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1"}
    command = [str(program), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    return tmp_path


def plant(root: Path, file: str, line: str) -> None:
    path = root / file
    path.write_text(f"{path.read_text()}\n\n{line}\n")


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles(imports()) == []


@pytest.mark.parametrize(
    "line",
    [
        "from featup_cli.ops.pca import fit_pca",
        "def later() -> None:\n    from featup_cli.ops.pca import fit_pca",
        "if TYPE_CHECKING:\n    from featup_cli.ops import pca",
    ],
)
def test_a_planted_circle_is_seen(copy: Path, line: str) -> None:
    plant(copy, "featup_cli/core/errors.py", line)  # which ops/pca.py imports
    (found,) = circles(imports(copy))
    assert {"featup_cli.core.errors", "featup_cli.ops.pca"} <= set(found)


def test_imports_run_down_the_floors(copy: Path) -> None:
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("featup_cli/core/shapes.py", "def up() -> None:\n    from featup_cli.engine import result"),
        ("featup_cli/training/config.py", "from featup_cli.evaluation import probe"),
        ("kernels/checks.py", "import featup_cli.core.errors"),
    ],
)
def test_a_planted_step_up_is_seen(copy: Path, file: str, line: str) -> None:
    plant(copy, file, line)
    result = lint_imports(copy)
    assert result.returncode == 1
    assert "BROKEN" in result.stdout


def test_timm_is_imported_in_one_place() -> None:
    lines = re.compile(r"^\s*(?:import|from) timm\b", re.MULTILINE)
    importers = [name for name, path in modules().items() if lines.search(path.read_text())]
    assert importers == ["featup_cli.backbones.timm.library"]
