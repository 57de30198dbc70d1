"""An upsampler of another package, by its record alone: listed, measured, evaluated, tested like ours, and gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugins import install, python

TOY = '''
"""Every pixel is the mean of all tokens."""
from dataclasses import dataclass
from featup_cli.upsamplers.method import Method, Needs


@dataclass(frozen=True)
class ToyConfig:
    """Settings of `toy`.

    Attributes:
        factor: what features are multiplied with.
    """

    factor: float = 1.0


METHOD = Method(
    "toy", "gives every pixel the mean of all tokens", "nobody (2026)", "toy_method:build", config=ToyConfig,
    needs=Needs.FEATURES, light=True,
)


def build(making):
    from featup_cli.upsamplers.api import Details, check_inputs

    class Toy:
        linear_in_features = True
        details = Details()

        def __call__(self, image, lr_feats, output_size):
            check_inputs(image, lr_feats, output_size)
            mean = lr_feats.mean((2, 3), keepdim=True) * (making.config or ToyConfig()).factor
            return mean.expand(-1, -1, *output_size).contiguous()

        def bands(self, image, lr_feats, output_size, rows, start=0):
            yield from self(image[..., :1, :1], lr_feats, output_size)[:, :, start:].split(rows, dim=2)

        def band_bytes(self, lr_shape, output_size, rows):
            return 4 * lr_shape[1] * output_size[0] * output_size[1]

    return Toy()
'''
MEASURE = """
import torch
from featup_cli.benchmarking import upsamplers
from featup_cli.benchmarking.settings import Settings
upsamplers.FIGURE_17, upsamplers.FIGURE_16 = [(2, 8, 4)], []
check, = upsamplers.measure_method("toy", Settings(suite="upsamplers", repeat=1), torch.device("cpu"), print)
assert check["time_ms"] > 0, check
"""
FAST = (
    "--limit",
    1,
    "--resize",
    64,
    "--no-cache",
    "--set",
    "views=2",
    "--set",
    "heldout_views=1",
    "--set",
    "max_steps=2",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("packages"), "featup.methods", "toy_method:METHOD", TOY)


def listed(packages: Path | None) -> set[bool]:
    shown = python("-m", "featup_cli", "upsample", "--help-all", packages=packages).stdout
    facts = json.loads(python("-m", "featup_cli", "info", "--json", packages=packages).stdout)
    return {"mean of all" in " ".join(shown.split()), "toy" in [row["method"] for row in facts["methods"]]}


def test_it_is_listed_while_its_package_is_there(packages: Path) -> None:
    assert listed(packages) == {True}
    assert listed(None) == {False}


def test_it_makes_features_and_keeps_its_name(packages: Path, photo: Path, tmp_path: Path) -> None:
    command = ("-m", "featup_cli", "upsample", photo, "-o", tmp_path, "--method", "toy", "--resize", 32)
    python(*command, packages=packages)
    again = python(*command, packages=packages)
    assert "up to date" in again.stderr
    assert "toy" in python(*command, status=2).stderr


def test_it_is_measured_and_evaluated(packages: Path, photo: Path) -> None:
    python("-c", MEASURE, packages=packages)
    command = ("-m", "featup_cli", "eval", "consistency", photo, "--methods", "nearest,toy", *FAST)
    assert "| toy |" in python(*command, packages=packages).stdout


def test_it_passes_the_tests_of_all_methods(packages: Path) -> None:
    tests = ("tests/upsamplers/test_registry.py", "tests/upsamplers/test_precision.py")
    done = python(
        "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-vv", "-k", "toy or every", *tests, packages=packages
    )
    assert "[toy" in done.stdout
