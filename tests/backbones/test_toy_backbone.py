"""A backbone of another package: a module and an entry point, nothing changed here."""

from __future__ import annotations

from pathlib import Path

from tests.plugins import install, python

TOY = '''
"""Means of 8x8 pixels as features."""
from featup_cli.backbones.loader import Alias, Loader

LOADER = Loader("toy", "toy_backbone:load", {"toy": Alias("means", "colours of 8x8 pixels")}, advice="it is a toy")


def load(config, device):
    import torch
    from featup_cli.backbones.api import Backbone
    from featup_cli.backbones.precision import Precision
    return Backbone(
        network=torch.nn.AvgPool2d(8), name=config.name, resolved="means", channels=3, stride=8, patch_multiple=8,
        weights_source="packaged", weights_sha256="", device=device, precision=Precision(config.precision, device),
    )
'''
CHECK = """
import sys
import torch
import featup_cli as featup
from featup_cli.engine.inventory import describe_environment
rows = [row for row in describe_environment()["backbones"] if row["alias"] == "toy"]
assert rows == [{"alias": "toy", "model": "means", "about": "colours of 8x8 pixels"}], rows
backbone = featup.load_backbone(featup.BackboneConfig("toy"))
pictures = torch.rand(2, 3, 16, 24)
assert torch.equal(backbone(pictures), torch.nn.functional.avg_pool2d(pictures, 8))
from featup_cli.__main__ import main
sys.argv[1:] = ["upsample", sys.argv[1], "-o", sys.argv[2], "--backbone", "toy", "--method", "bilinear"]
main()
"""
UPSAMPLE = ("-m", "featup_cli", "upsample", "--method", "bilinear")


def test_a_backbone_of_another_package_is_listed_loaded_and_used(photo: Path, tmp_path: Path) -> None:
    packages = install(tmp_path, "featup.backbones", "toy_backbone:LOADER", TOY)
    done = python("-c", CHECK, photo, tmp_path / "out", packages=packages)
    assert (tmp_path / "out" / "photo.safetensors").exists()
    assert "backbone toy (means, 3 channels, stride 8)" in done.stderr
    assert "; it is a toy\n" in done.stderr
    done = python(*UPSAMPLE, photo, "-o", tmp_path / "out", "--backbone", "toy", status=2)
    assert "error: unknown backbone 'toy'" in done.stderr


def test_a_broken_package_is_one_line_and_the_rest_works(photo: Path, tmp_path: Path) -> None:
    packages = install(tmp_path, "featup.backbones", "broken_backbone:LOADER", "import no_such_module")
    done = python(*UPSAMPLE, photo, "-o", tmp_path / "out", packages=packages)
    assert (tmp_path / "out" / "photo.safetensors").exists()
    assert done.stderr.count("warning: featup.backbones broken_backbone:LOADER can't be loaded") == 1
    assert "Traceback" not in done.stderr
