"""Threads, tiles and the compilation of the CPU kernels; their results are tested with those of every backend."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from featup_kernels import parallel, tiles

from tests.kernels.cases import LARGER, Case, apply, assert_matches_reference, case_id, has_gradients, make_inputs


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("poisoned_memory", "two_threads")
@pytest.mark.parametrize(
    "case",
    [
        Case("adaptive_conv", 2, 5, 50, 131, 5),
        Case("adaptive_conv", 1, 3, 6, 300, 3),
        Case("adaptive_conv", 2, 18, 50, 131, 5),  # too many channels to read the taps in place
        Case("adaptive_conv", 2, 128, 9, 14, 5),  # few pixels: the channels are cut into blocks
        Case("adaptive_conv", 1, 2, 9, 10, 13),  # the longest prime window that is unrolled
        Case("adaptive_conv", 1, 1, 3, 4, 17),  # not unrolled
        Case("neighbor_mix", 1, 21, 50, 131, 3, (5, 12)),
        Case("neighbor_mix", 1, 1, 3, 4, 13, (5, 6)),
        Case("range_taps", 2, 5, 50, 131, 5),
    ],
    ids=case_id,
)
def test_several_tiles_and_other_windows(case: Case) -> None:
    assert_matches_reference(case, "cpu", torch.float64)


@pytest.mark.parametrize("case", LARGER, ids=case_id)
def test_the_number_of_threads_does_not_change_a_bit(case: Case, two_threads: None) -> None:
    inputs = make_inputs(case)
    results = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        out = apply(case, inputs, "cpu")
        results.append([out])
        if has_gradients(case, "cpu"):
            results[-1] += torch.autograd.grad(out.square().sum(), list(inputs.values()))
    assert all(torch.equal(two, one) for two, one in zip(*results, strict=True))


def test_several_python_threads_may_call_at_once(two_threads: None) -> None:
    case = Case("adaptive_conv", 4, 5, 40, 40, 3)
    inputs = [make_inputs(case) for _ in range(8)]
    expected = [apply(case, values, "reference") for values in inputs]
    with ThreadPoolExecutor(4) as callers:
        for out, exact in zip(callers.map(lambda values: apply(case, values, "cpu"), inputs), expected, strict=True):
            torch.testing.assert_close(out, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_kernels_run_in_a_forked_child() -> None:
    code = """
        import os, sys, torch
        from featup_kernels import adaptive_conv
        torch.set_num_threads(2)
        source, taps = torch.ones(4, 1, 34, 34), torch.ones(4, 9, 32, 32)
        def call():
            return adaptive_conv(source, taps, backend="cpu").unique().tolist() == [9.0]
        assert call()
        child = os.fork()
        if child == 0:
            os._exit(0 if call() else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


def test_an_error_in_a_helper_thread_reaches_the_caller(two_threads: None) -> None:
    def kernel(start: int, stop: int, buffers: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parallel.run(kernel, 100, (1,), torch.float32)


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def without_a_place_to_write(function: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return njit(function, **options)

    monkeypatch.setattr(numba, "njit", without_a_place_to_write)

    def twice(x: float) -> float:
        return 2 * x

    assert tiles.jit(twice)(3.0) == 6.0


def test_kernels_are_compiled_again_when_what_they_call_has_changed(tmp_path: Path) -> None:
    """The cache of a kernel holds for one version of `tiles.py`."""
    code = """
import sys
from featup_kernels import tiles
tiles._STAMP = sys.argv[2]
sys.path.insert(0, sys.argv[1])
import kernel
kernel.twice(3.0)
print(sum(kernel.twice.stats.cache_hits.values()))
"""
    (tmp_path / "kernel.py").write_text(
        "from featup_kernels.tiles import jit\n\n@jit\ndef twice(x):\n    return 2 * x\n"
    )
    hits = []
    for stamp in ("first", "first", "second"):
        command = [sys.executable, "-c", code, str(tmp_path), stamp]
        hits.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    assert hits == ["0", "1", "0"]


def test_tiles_fit_into_their_buffers() -> None:
    for height, width, k in [(224, 224, 7), (1, 1, 1), (14, 14, 5), (5, 5000, 31), (3000, 1, 15)]:
        for most_cols in (128, 256):
            rows, cols = tiles.tile_shape(1, height, width, k, 2, most_cols)
            assert 1 <= rows <= height
            assert 1 <= cols <= min(width, most_cols)
            assert (rows - 1) * (cols + k - 1) + cols + tiles.LANES <= tiles.RUN
