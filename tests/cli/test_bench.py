from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from featup_kernels.adaptive_conv import cases
from featup_kernels.operation import Case
from typer.testing import CliRunner

from featup_cli.benchmarking import kernels
from featup_cli.cli import bench
from featup_cli.cli.app import app

QUICK = ["--backend", "reference", "--device", "cpu", "--repeat", "2", "--budget", "0.02", "--baselines", "loop"]


@pytest.fixture(autouse=True)
def quick_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "copy_bandwidths", lambda *limits: (2.0**30, 2.0**29))


def featup(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_loads_no_torch() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom featup_cli.cli.app import app\n"
        "result = CliRunner().invoke(app, ['bench', '--help'])\n"
        "assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'numba', 'triton'} & set(sys.modules)\n"
        "assert not heavy, heavy\nprint(result.output)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "table6" in done.stdout


def test_json_goes_to_stdout_when_it_is_no_terminal_and_progress_to_stderr() -> None:
    status, stdout, stderr = featup("bench", "--shape", "1x4x6x2x3", *QUICK)
    assert status == 0
    row = json.loads(stdout)["rows"][0]
    assert (row["shape"], row["direction"]) == ("1x4x6x2x3", "forward")
    assert row["time_ms"] > 0
    assert "checking reference" in stderr
    assert featup("bench", "--shape", "1x4x6x2x3", "-q", *QUICK)[2] == ""


def test_a_file_takes_the_json_and_people_get_the_table(tmp_path: Path) -> None:
    path = tmp_path / "new" / "b.json"
    status, stdout, _ = featup("bench", "--shape", "1x4x6x2x3", "--backward", "--json", path, *QUICK)
    assert status == 0
    assert json.loads(path.read_text())["rows"][0]["direction"] == "backward"
    assert "adaptive_conv (reference)" in stdout


def test_a_terminal_gets_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report: dict[str, Any] = {
        "benchmark": "pipeline", "rows": [], "device_name": "some CPU", "threads": 2, "versions": {"torch": "2.9"},
    }  # fmt: skip
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    bench.show(report, None)
    assert "some CPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --shape"),
        (["--shape", "3x4"], "--shape 3x4: expected"),
        (["--shape", "1x4x4x2x2"], "must be odd"),
        (["--shape", "1x4x4x2", "--suite", "table6"], "give either"),
        (["--suite", "table6", "--backward"], "--backward needs --shape"),
        (["--suite", "table6", "--op", "range_taps"], "--op needs --shape"),
        (["--shape", "1x4x4x2", "--op", "nonesuch"], "nonesuch"),
        (["--shape", "1x4x4x2", "--op", "neighbor_mix"], "--scale 16"),
        (["--shape", "1x4x4x2", "--scale", "2"], "neighbor_mix"),
        (["--shape", "1x4x4x2", "--repeat", "0"], "--repeat"),
        (["--shape", "1x4x4x2", "--baselines", "lop"], "'lop'"),
        (["--shape", "1x4x4x2", "--device", "abacus"], "--device abacus"),
        (["--shape", "1x4x4x2", "--device", "cpu", "--backend", "triton"], "--backend triton: adaptive_conv"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(arguments: list[str], message: str) -> None:
    status, stdout, stderr = featup("bench", *arguments)
    assert status == 2
    assert stdout == ""
    assert message in stderr


def test_a_wrong_kernel_exits_with_1_and_gives_no_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = cases.CASES.run

    def wrong(case: Case, backend: str, *inputs: Any) -> Any:
        return right(case, backend, *inputs) + (0.5 if inputs[0].element_size() == 4 else 0)

    monkeypatch.setattr(cases, "CASES", replace(cases.CASES, run=wrong))
    status, stdout, stderr = featup("bench", "--shape", "1x4x6x2x3", "--json", tmp_path / "b.json", "-q", *QUICK)
    assert status == 1
    assert stdout == ""
    assert stderr.startswith("error: adaptive_conv (reference) is wrong at 1x4x6x2x3")
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "b.json").exists()
