from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from featup_kernels import BackendError, backends, dispatch
from featup_kernels.dispatch import choose_backend

from tests.kernels.cases import SMALL, Case, apply, case_id, make_inputs


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("FEATUP_KERNELS", raising=False)


def test_backends_say_why_they_cannot_run() -> None:
    reasons = {status.backend: status.why_not for status in backends("cpu")}
    assert list(reasons) == ["triton", "cpu", "reference"]
    assert reasons["triton"] is not None
    assert reasons["cpu"] is None
    assert reasons["reference"] is None
    on_gpu = {status.backend: status.why_not for status in backends("cuda")}
    assert on_gpu["cpu"] == "its kernels run on the CPU, but the tensors are on cuda"


@pytest.mark.parametrize("case", SMALL, ids=case_id)
def test_a_backend_asked_for_by_name_never_falls_back(case: Case) -> None:
    inputs = make_inputs(case)
    with pytest.raises(BackendError, match=r"backend 'triton' can't run: .*; available: cpu, reference"):
        apply(case, inputs, "triton")
    with pytest.raises(BackendError, match=r"backend 'fastest' does not exist; available: cpu, reference"):
        apply(case, inputs, "fastest")


def test_auto_takes_the_first_that_can_run() -> None:
    assert choose_backend("adaptive_conv", "auto", "cpu", torch.float32) == "cpu"
    assert choose_backend("adaptive_conv", "auto", "mps", torch.float32) == "reference"
    assert choose_backend("adaptive_conv", "auto", "cpu", torch.float8_e4m3fn) == "reference"


@pytest.mark.parametrize(("version", "chosen"), [((3, 2), "reference"), ((3, 3), "triton"), ((4, 0), "triton")])
def test_a_triton_whose_compiler_knows_no_tuples_is_not_taken(
    version: tuple[int, int], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_triton_version", lambda: version)
    assert choose_backend("adaptive_conv", "auto", "cuda", torch.float32) == chosen
    if version < (3, 3):
        with pytest.raises(BackendError, match=r"need Triton 3\.3.*but Triton 3\.2 is installed"):
            choose_backend("adaptive_conv", "triton", "cuda", torch.float32)


def test_the_version_of_triton_is_the_installed_one() -> None:
    triton = pytest.importorskip("triton")
    assert dispatch._triton_version() == tuple(int(part) for part in triton.__version__.split(".")[:2])


def test_auto_does_not_take_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("adaptive_conv", "auto", "cpu", torch.float32) == "cpu"


def test_the_environment_names_another_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUP_KERNELS", "reference")
    assert choose_backend("adaptive_conv", "auto", "cpu", torch.float32) == "reference"
    assert choose_backend("adaptive_conv", "cpu", "cpu", torch.float32) == "cpu"
    monkeypatch.setenv("FEATUP_KERNELS", "triton")
    with pytest.raises(BackendError, match="'triton' can't run"):
        choose_backend("adaptive_conv", "auto", "cpu", torch.float32)


def test_importing_loads_neither_torch_nor_numba_nor_triton() -> None:
    code = "import sys, featup_kernels; print(sorted({'torch', 'numba', 'llvmlite', 'triton'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_first_call_loads_no_compiler() -> None:
    code = """
import sys, torch, featup_kernels
featup_kernels.adaptive_conv(torch.rand(1, 1, 4, 4), torch.rand(1, 9, 2, 2), backend="cpu")
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_names_are_functions_although_folders_are_called_alike() -> None:
    code = """
import featup_kernels.adaptive_conv.op, featup_kernels
assert set(featup_kernels.OPERATIONS) <= set(dir(featup_kernels))
print([getattr(featup_kernels, name).__name__ for name in featup_kernels.OPERATIONS] == list(featup_kernels.OPERATIONS))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
