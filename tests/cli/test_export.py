"""`featup export` and `featup info FILE` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import featup_cli
from featup_cli.cli.app import app
from featup_cli.io.stream import save_features

PACKAGED = Path(featup_cli.__file__).parent / "weights"
PROVENANCE = {"input": {"path": "photo.jpg", "size": [12, 14]}, "backbone": {"name": "tiny"}, "method": "jbu"}


def featup(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command, run in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "photo.safetensors"
    save_features(path, features=torch.randn(5, 6, 7), lr_features=torch.randn(5, 2, 2), provenance=PROVENANCE)
    return path


def test_help_loads_no_torch() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom featup_cli.cli.app import app\n"
        "result = CliRunner().invoke(app, ['export', '--help'])\nassert result.exit_code == 0, result.output\n"
        "assert not {'torch', 'numpy', 'h5py'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_export_prints_what_it_wrote(file: Path, tmp_path: Path) -> None:
    status, stdout, _ = featup("export", file, "--to", "npy", "-o", tmp_path / "out", "--components", "2")
    assert (status, stdout.split()) == (0, [str(tmp_path / "out" / "photo.npy")])
    assert np.load(tmp_path / "out" / "photo.npy").shape == (2, 6, 7)
    status, stdout, _ = featup("export", file, "--to", "lerf", "-o", tmp_path, "--dtype", "float32", "--json")
    assert json.loads(stdout) == {"output": str(tmp_path / "dino.npy")}
    assert np.load(tmp_path / "dino.npy").dtype == np.float32


def test_export_goes_on_after_a_bad_file_and_says_so(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_text("no features")
    status, stdout, stderr = featup("export", bad, file, "--to", "npz", "--json")
    records = [json.loads(line) for line in stdout.splitlines()]
    assert status == 1
    assert records[0]["input"] == str(bad)
    assert "not a safetensors file" in records[0]["error"]
    assert records[1] == {"output": str(tmp_path / "photo.npz")}
    assert stderr.splitlines() == [f"error: {records[0]['error']}", "error: 1 of 2 files failed"]
    status, _, stderr = featup("export", bad, "--to", "npz")
    assert (status, len(stderr.splitlines())) == (1, 1)


def test_export_refuses_what_exists_as_wrong_usage(file: Path) -> None:
    assert featup("export", file, "--to", "npy")[0] == 0
    status, _, stderr = featup("export", file, "--to", "npy")
    assert status == 2
    assert "--overwrite" in stderr
    assert featup("export", file, "--to", "npy", "--overwrite")[0] == 0


def test_info_describes_features_without_reading_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featup_cli.io.mapped.MappedFeatures._read", None)
    monkeypatch.setattr("featup_cli.io.features.read_tensors", None)
    status, stdout, _ = featup("info", file, "--json")
    assert status == 0
    assert json.loads(stdout) == {
        "file": str(file), "kind": "features", "bytes": file.stat().st_size, "shape": [5, 6, 7], "dtype": "float16",
        "layout": "C H W", "storage": "full",
        "tensors": {
            "features": {"shape": [5, 6, 7], "dtype": "float16"},
            "lr_features": {"shape": [5, 2, 2], "dtype": "float16"},
        },
        "provenance": PROVENANCE,
    }  # fmt: skip
    status, stdout, _ = featup("info", file)
    for part in (str(file), "[5, 6, 7]", "float16", "path photo.jpg, size [12, 14]", "jbu", "[5, 2, 2] float16"):
        assert part in stdout


def test_info_describes_factored_features(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_features(path, torch.randn(2, 6, 7), factors=(torch.randn(2, 5), torch.randn(5)), provenance={})
    facts = json.loads(featup("info", path, "--json")[1])
    assert (facts["storage"], facts["shape"], facts["provenance"]) == ("factored", [5, 6, 7], {})


def test_info_describes_a_fitted_model(photo: Path, tmp_path: Path) -> None:
    made = featup(
        "upsample", photo, "-o", tmp_path, "--save-model", "--resize", "64", "--no-picture", "-q", "--max-steps", "2",
        "--views", "4", "--set", "tokens=32", "--set", "hidden=16",
    )  # fmt: skip
    assert made[0] == 0, made[2]
    facts = json.loads(featup("info", tmp_path / "photo.model.safetensors", "--json")[1])
    assert facts["kind"] == "fitted model"
    assert facts["network_size"] == [64, 80]
    assert facts["provenance"]["backbone"]["resolved"] == "tiny"


def test_info_describes_upsampler_weights() -> None:
    status, stdout, _ = featup("info", PACKAGED / "resfu_tiny.safetensors", "--json")
    facts = json.loads(stdout)
    assert status == 0
    assert (facts["kind"], facts["method"], facts["backbone"]["name"]) == ("upsampler weights", "resfu", "tiny")
    assert facts["parameters"] > 40_000
    assert "upsampler weights" in featup("info", PACKAGED / "jbu.safetensors")[1]


def test_info_shows_the_others_when_one_file_is_bad(file: Path, tmp_path: Path) -> None:
    bad = {"damaged": file.read_bytes()[:300], "empty": b"", "text": b"hello", "pickle": b"\x80\x02}q\x00."}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    save_file({"a.weight": torch.zeros(3), "b.weight": torch.zeros(3, 3)}, tmp_path / "foreign")
    given = [*bad, "foreign", "missing"]
    status, stdout, stderr = featup("info", *(tmp_path / name for name in given), file, "--json")
    lines = stderr.splitlines()
    assert status == 1
    assert len(lines) == len(given)
    assert all(name in line for name, line in zip(given, lines, strict=True))
    records = [json.loads(line) for line in stdout.splitlines()]
    assert [Path(record["file"]).name for record in records] == [*given, "photo.safetensors"]
    assert ["error" in record for record in records] == [True] * len(given) + [False]


def test_info_keeps_control_codes_of_a_file_off_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_features(path, features=torch.randn(2, 3, 3), provenance={"note\x1b[31m": "red\x1b[2Jline\nbreak", "n": [1]})
    _, stdout, _ = featup("info", path)
    assert "\x1b" not in stdout
    assert "red" in stdout
    assert "line break" in stdout
