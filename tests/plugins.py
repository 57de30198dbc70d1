"""Packages of somebody's own, as if installed: a module and its entry point in a folder that a process is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def install(folder: Path, group: str, reference: str, code: str) -> Path:
    """Put a package into `folder`: a module with `code`, and an entry point of `group` that means `reference`."""
    module = reference.partition(":")[0]
    (folder / f"{module}.py").write_text(code)
    facts = folder / f"{module}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\n{module} = {reference}\n")
    return folder


def python(*arguments: object, packages: Path | None = None, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python in the root of the project, with the packages of a folder or without."""
    paths = os.pathsep.join(filter(None, [str(packages or ""), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done
