"""Where the kernels run, and memory that shows when it was left unwritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from featup_kernels import backends


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the tensors of the kernel tests are: cpu or cuda")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--device", "cpu")


@pytest.fixture(params=["reference", "cpu", "triton"])
def backend(request: pytest.FixtureRequest, device: str) -> str:
    """Every backend that can run on the device; the others are skipped with their reason."""
    reasons = {status.backend: status.why_not for status in backends(device)}
    if reasons[request.param] is not None:
        pytest.skip(f"{request.param}: {reasons[request.param]}")
    return request.param


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill uninitialised memory of PyTorch and NumPy with NaN: an output that is not written shows."""

    def poisoned(allocate: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = allocate(*args, **kwargs)
            tensor = torch.as_tensor(result)
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
            return result

        return call

    monkeypatch.setattr(np, "empty", poisoned(np.empty))
    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
