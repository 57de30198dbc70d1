"""Which versions of other packages are declared, tested and installed."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
LOWEST, NEWEST = ROOT / ".ci" / "lowest.txt", ROOT / ".ci" / "newest.txt"


def declared_requirements() -> list[Requirement]:
    """What pyproject.toml asks for to run the project and its tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for name in extras if name != "lint" for text in extras[name])]
    return [Requirement(text) for text in texts]


def pins(path: Path) -> dict[str, Version]:
    """Versions by package of a constraints file."""
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    requirements = [Requirement(line) for line in lines]
    return {r.name: Version(next(iter(r.specifier)).version) for r in requirements}


def installed(package: str) -> Version | None:
    """The version that is installed; None if none is."""
    try:
        return Version(version(package))
    except PackageNotFoundError:
        return None


def newer_than_tested() -> list[str]:
    """One line for each installed package that is newer than the newest that was tested."""
    found = ((package, tested, installed(package)) for package, tested in pins(NEWEST).items())
    return [f"{package} {here} (tested up to {tested})" for package, tested, here in found if here and here > tested]
