from __future__ import annotations

import pytest
from featup_kernels.dispatch import BACKENDS, OPERATIONS

from featup_cli.benchmark import settings
from featup_cli.benchmark.settings import Case, parse_baselines, parse_shape
from featup_cli.core.errors import UsageError


def test_the_torch_free_lists_are_those_of_the_kernels() -> None:
    assert settings.OPERATIONS == OPERATIONS
    assert set(settings.BACKENDS) == {"auto", *BACKENDS}


def test_a_shape_has_a_window_of_five_unless_it_says_otherwise() -> None:
    assert parse_shape("64x224x224x3") == (64, 224, 224, 3, 5)
    assert parse_shape("1x2x3x4x7") == (1, 2, 3, 4, 7)
    assert Case(*parse_shape("1x2x3x4x7")).shape == "1x2x3x4x7"


@pytest.mark.parametrize("text", ["3x4", "", "1x2x3x4x5x7", "0x2x3x4", "1x2x3x-4", "1x2x3xfour", "1 x2x3x4"])
def test_other_forms_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="64x224x224x3x5"):
        parse_shape(text)


def test_an_even_window_is_refused() -> None:
    with pytest.raises(UsageError, match="must be odd, not 4"):
        parse_shape("1x2x3x4x4")


def test_neighbor_mix_needs_a_size_that_is_a_multiple_of_its_scale() -> None:
    with pytest.raises(UsageError, match="--scale 16: 20x32"):
        Case(1, 20, 32, 3, operation="neighbor_mix")
    assert Case(1, 20, 32, 3, operation="neighbor_mix", scale=4).scale == 4


def test_baselines_are_chosen_by_name() -> None:
    assert parse_baselines("all") == settings.BASELINES
    assert parse_baselines("none") == ()
    assert parse_baselines("loop,bilinear") == ("loop", "bilinear")
    assert parse_baselines("torchscript,flex") == settings.EXTRA_BASELINES
    with pytest.raises(UsageError, match="'lop'"):
        parse_baselines("loop,lop")
