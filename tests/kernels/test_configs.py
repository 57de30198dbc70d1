"""Launch configurations: what is chosen covers the result, and a GPU can run it and what lies beside it."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
from featup_kernels.adaptive_conv import configs as adaptive_conv
from featup_kernels.launch import count_columns, power_of_two
from featup_kernels.operation import Case
from featup_kernels.resampled_conv.configs import WEIGHTS, forward_config

from benchmarks.gpu.tuned.kernel import variants
from benchmarks.gpu.tuning import KERNELS, candidates
from featup_cli.benchmarking.table6 import ROWS

SHAPES = [
    *((c.batch, c.height, c.width, c.channels, c.window) for c in (row.case(backward=False) for row in ROWS)),
    (1, 448, 448, 384, 7),
    (1, 2, 2, 1, 1),
    (3, 16, 34, 70, 9),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_every_candidate_can_be_launched(name: str, shape: tuple[int, ...]) -> None:
    case = Case(*shape, operation=KERNELS[name].operation, scale=2)
    for config in candidates(name, case):
        assert config.threads == power_of_two(config.threads)
        assert 32 <= config.threads <= 1024
        assert all(number >= 1 for number in asdict(config).values())


@pytest.mark.parametrize("window", [3, 7])
@pytest.mark.parametrize("name", KERNELS)
def test_several_candidates_lie_beside_the_chosen_one(name: str, window: int) -> None:
    case = Case(1, 64, 64, 64, window, KERNELS[name].operation, scale=2)
    default, *others = candidates(name, case)
    assert 4 <= len(others) <= 8
    assert default not in others
    assert len(set(others)) == len(others)


def test_variants_leave_out_repetitions_the_record_and_too_many_threads() -> None:
    config = adaptive_conv.FilterConfig(rows=4, channels=4, block=32, parts=4)
    found = variants(config, [{"rows": 4}, {"rows": 2}, {"rows": 2}, {"parts": 64}, {"channels": 1}])
    assert found == [replace(config, rows=2), replace(config, channels=1)]


def test_columns_cover_every_row() -> None:
    assert count_columns(2, 9, 5, 4) == 2 * 3 * 5
    assert [power_of_two(n) for n in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("terms", [1, 2, 4])
def test_windows_on_an_evenly_doubled_source_are_taken_whole(k: int, terms: int) -> None:
    """By looking: the cells of every window of every thread are no more than it has weights for."""
    cells, size = 40, 80
    config = forward_config(1, 384, (cells, cells), (size, size), k, (terms, terms))
    assert config.rows * config.down * config.across <= WEIGHTS
    read = [math.floor((place + 0.5) / 2 - 0.5) - (terms - 1) // 2 for place in range(-9, size)]  # the first of each
    for first in range(len(read) - k - config.rows):
        down, across = read[first + k + config.rows - 2], read[first + k - 1]
        assert down - read[first] + terms <= config.down
        assert across - read[first] + terms <= config.across


def test_sums_in_float64_have_half_the_weights() -> None:
    config = forward_config(1, 384, (112, 112), (224, 224), 7, (4, 4), itemsize=8)
    assert config.rows * config.down * config.across <= WEIGHTS // 2
