"""Finds the packages: a new folder needs no list. The rest is in pyproject.toml."""

from setuptools import find_packages, setup

# The top-level name `kernels` belongs to another project, so that folder is installed as `featup_kernels`.
kernels = ["featup_kernels", *(f"featup_kernels.{name}" for name in find_packages("kernels"))]
setup(
    packages=[*find_packages(include=["featup_cli", "featup_cli.*"]), *kernels],
    package_dir={"featup_kernels": "kernels"},
)
