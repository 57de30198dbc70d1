from __future__ import annotations

from typing import Any

import pytest

from featup_cli.benchmarking import settings
from featup_cli.benchmarking.settings import Case, Settings, parse_baselines, parse_case, parse_shape
from featup_cli.core.errors import UsageError


def case_of(shape: str | None = "1x20x32x3", suite: str | None = None, **changes: Any) -> Case | None:
    options: dict[str, Any] = {"op": None, "scale": None, "backward": False, "dtype": "float32"} | changes
    return parse_case(shape, suite, **options)


def test_a_shape_has_a_window_of_five_unless_it_says_otherwise() -> None:
    assert parse_shape("64x224x224x3") == (64, 224, 224, 3, 5)
    assert parse_shape("1x2x3x4x7") == (1, 2, 3, 4, 7)
    assert Case(*parse_shape("1x2x3x4x7"), "adaptive_conv").shape == "1x2x3x4x7"


@pytest.mark.parametrize("text", ["3x4", "", "1x2x3x4x5x7", "0x2x3x4", "1x2x3x-4", "1x2x3xfour", "1 x2x3x4"])
def test_other_forms_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="64x224x224x3x5"):
        parse_shape(text)


def test_an_even_window_is_refused() -> None:
    with pytest.raises(UsageError, match="must be odd, not 4"):
        parse_shape("1x2x3x4x4")


def test_options_make_a_case_or_leave_it_to_the_suite() -> None:
    assert case_of() == Case(1, 20, 32, 3, 5, "adaptive_conv")
    assert case_of(op="range_taps", backward=True, dtype="float16") == Case(
        1, 20, 32, 3, 5, "range_taps", dtype="float16", backward=True
    )
    assert case_of(None, "table6") is None


def test_a_scaled_operation_needs_a_size_that_is_a_multiple_of_its_scale() -> None:
    with pytest.raises(UsageError, match="--scale 16: 20x32"):
        case_of(op="neighbor_mix")
    assert case_of(op="neighbor_mix", scale=4) == Case(1, 20, 32, 3, 5, "neighbor_mix", 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "table6"}, "give either --shape"),
        ({"shape": None}, r"--suite table6\|upsamplers\|pipeline"),
        ({"shape": None, "suite": "table7"}, "--suite table7: choose from table6, upsamplers, pipeline"),
        ({"op": "nonesuch"}, "--op nonesuch: choose from adaptive_conv, neighbor_mix"),
        ({"scale": 2}, "--scale needs --op neighbor_mix or resampled_conv, not adaptive_conv"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        case_of(**options)


@pytest.mark.parametrize(
    "changes", [{"dtype": "int8"}, {"backend": "fast"}, {"repeat": 0}, {"threads": 0}, {"budget_s": -1.0}], ids=str
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        Settings(**changes)


def test_baselines_are_chosen_by_name() -> None:
    assert parse_baselines("all") == settings.BASELINES
    assert parse_baselines("none") == ()
    assert parse_baselines("loop,bilinear") == ("loop", "bilinear")
    assert parse_baselines("torchscript,flex") == settings.EXTRA_BASELINES
    with pytest.raises(UsageError, match="'lop'"):
        parse_baselines("loop,lop")
