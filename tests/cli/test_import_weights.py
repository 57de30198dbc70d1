"""Weights of upsamplers from the command line: `featup import-weights` and `featup upsample --upsampler`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from featup_cli.cli.app import app
from featup_cli.io.features import load_features
from featup_cli.io.header import read_provenance
from featup_cli.upsamplers.jbu.released import ReleasedJBU
from featup_cli.upsamplers.weights import find
from featup_cli.upsamplers.weights.file import build_upsampler, read_metadata, save_upsampler
from tests.upsamplers.published_resfu import Published

ABOUT = {"backbone": "any", "provenance": {}, "card": "Random numbers."}
TINY = {"name": "tiny", "channels": 96}


def featup(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command, run in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def official(path: Path, channels: int = 96, normed: bool = True) -> Path:
    """A Lightning checkpoint with the official names and random values."""
    state = {f"upsampler.{name}": value for name, value in ReleasedJBU(channels).state_dict().items()}
    state |= {"model.0.model.cls_token": torch.randn(1, 1, channels), "scale_net.net.bias": torch.zeros(1)}
    if normed:
        state |= {"model.1.norm.weight": torch.ones(channels), "model.1.norm.bias": torch.zeros(channels)}
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the package's own weights, with a JBU for any backbone."""
    folder = tmp_path / "shipped"
    save_upsampler(folder / "jbu.safetensors", build_upsampler("jbu", {}), ABOUT)
    monkeypatch.setattr(find, "SHIPPED", folder)
    return folder


def test_a_checkpoint_is_converted_with_its_origin_and_then_used(photo: Path, tmp_path: Path) -> None:
    checkpoint, output = official(tmp_path / "mine.ckpt"), tmp_path / "new" / "mine.safetensors"
    status, stdout, stderr = featup("import-weights", checkpoint, "-o", output, "--backbone", "tiny")
    assert (status, stdout.strip()) == (0, str(output))
    for part in ("jbu-released", "96 channels", "with a norm", "for tiny", "2 tensors of other parts"):
        assert part in stderr
    metadata = read_metadata(output)
    assert metadata["method"] == "jbu-released"
    assert metadata["config"] == {"channels": 96, "norm": True}
    assert metadata["backbone"] == TINY
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (metadata["provenance"]["file"], metadata["provenance"]["sha256"]) == ("mine.ckpt", sha256)
    status, _, stderr = featup(
        "upsample", photo, "-o", tmp_path, "--resize", "64", "--method", "jbu", "--upsampler", output
    )
    assert status == 0, stderr
    assert "normalised over channels" in stderr
    facts = read_provenance(tmp_path / "photo.safetensors")["upsampler"]
    assert (facts["file"], facts["provenance"]["sha256"]) == ("mine.safetensors", sha256)
    assert facts["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()


def test_a_resfu_state_dict_is_converted_and_json_tells_what_was_read(tmp_path: Path) -> None:
    state = Published(channels=96).state()
    torch.save(state, tmp_path / "resfu.pth")
    output = tmp_path / "resfu.safetensors"
    status, stdout, _ = featup("import-weights", tmp_path / "resfu.pth", "-o", output, "--json")
    facts = json.loads(stdout)
    assert status == 0
    assert (facts["method"], facts["channels"], facts["normed"]) == ("resfu", 96, False)
    assert facts["parameters"] == sum(value.numel() for name, value in state.items() if name != "GF.kernel")
    assert facts["backbone"]["name"] is None
    assert read_metadata(output)["config"]["filter_radius"] == 4
    assert "name its backbone" in featup("import-weights", tmp_path / "resfu.pth", "-o", output, "--overwrite")[2]


def test_official_files_are_known_by_name(tmp_path: Path) -> None:
    checkpoint, output = official(tmp_path / "dino16_jbu_stack_cocostuff.ckpt", 384), tmp_path / "dino.safetensors"
    assert featup("import-weights", checkpoint, "-o", output, "-q")[0] == 0
    metadata = read_metadata(output)
    assert metadata["backbone"]["name"] == "vit_small_patch16_224.dino"
    assert metadata["provenance"]["license"].startswith("MIT")


@pytest.mark.parametrize("kind", ["missing", "truncated", "other network", "other method", "code"])
def test_what_can_not_be_imported_is_one_line_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    path, output, extra = official(tmp_path / "net.ckpt"), tmp_path / "out.safetensors", []
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "other network":
        torch.save({"blocks.0.weight": torch.ones(1)}, path)
    elif kind == "other method":
        extra = ["--method", "resfu"]
    else:
        torch.save({"state_dict": {}, "callbacks": Path}, path)
    status, stdout, stderr = featup("import-weights", path, "-o", output, *extra)
    assert (status, stdout) == (1, "")
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith("error: ")
    assert "net.ckpt" in stderr
    assert not output.exists()


def test_auto_upsamples_with_the_packages_weights_at_the_exact_size(photo: Path, shipped: Path, tmp_path: Path) -> None:
    status, _, stderr = featup(
        "upsample", photo, "-o", tmp_path, "--resize", "64", "--method", "jbu", "--output-size", "67x91"
    )
    assert status == 0, stderr
    file = load_features(tmp_path / "photo.safetensors")
    assert file.features.shape == (96, 67, 91)
    facts = file.provenance["upsampler"]
    assert (facts["source"], facts["method"], facts["backbone"]) == ("packaged:jbu.safetensors", "jbu", "any")
    assert facts["config"]["radius"] >= 1
    assert len(facts["sha256"]) == 64


def test_resfu_without_weights_for_the_backbone_names_the_ways_out(photo: Path, shipped: Path, tmp_path: Path) -> None:
    command = ["upsample", photo, "-o", tmp_path / "o", "--resize", "64", "-q", "--method", "resfu"]
    status, _, stderr = featup(*command)
    assert status == 1
    assert len(stderr.splitlines()) == 1
    assert "featup train --method resfu --backbone tiny --images DIR" in stderr
    save_upsampler(
        shipped / "resfu_tiny.safetensors", build_upsampler("resfu", {"channels": 96}), ABOUT | {"backbone": TINY}
    )
    assert featup(*command)[0] == 0


def test_weights_for_another_backbone_need_consent(photo: Path, tmp_path: Path) -> None:
    path = tmp_path / "up.safetensors"
    identity = {"name": "vit_small_patch16_224.dino", "channels": 96}
    save_upsampler(path, build_upsampler("resfu", {"channels": 96}), ABOUT | {"backbone": identity})
    command = ["upsample", photo, "-o", tmp_path / "o", "--resize", "64", "--method", "resfu", "--upsampler", path]
    status, _, stderr = featup(*command)
    assert status == 1
    assert "vit_small_patch16_224.dino" in stderr
    assert "tiny" in stderr
    status, _, stderr = featup(*command, "--allow-other-backbone")
    assert status == 0
    assert "note: upsampler" in stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--method", "bilinear", "--upsampler", "dino16"], 2, "method bilinear has no such setting"),
        (["--method", "jbu", "--upsampler", "dino61"], 2, "dino61"),
        (["--method", "jbu", "--upsampler", "none.safetensors"], 1, "none.safetensors"),
        (["--method", "jbu", "--upsampler", "dino16", "--offline"], 1, "switched off"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_wrong_requests_say_what_is_wrong(
    arguments: list[str], status: int, says: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    found, _, stderr = featup("upsample", photo, "-o", tmp_path / "o", "-q", *arguments)
    assert found == status
    assert says in stderr
    assert len(stderr.splitlines()) == 1


def test_info_lists_weights_of_upsamplers(shipped: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(featup("info", "--json")[1])["upsamplers"]
    assert {"upsampler": "jbu.safetensors", "method": "jbu", "for": "any backbone", "where": "in the package"} in rows
    assert {"dino16", "dinov2", "clip", "maskclip", "vit", "resnet50"} <= {row["upsampler"] for row in rows}
    assert "jbu.safetensors" in featup("info")[1]
