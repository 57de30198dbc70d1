from __future__ import annotations

import pytest

from featup_cli.core.errors import UsageError
from featup_cli.core.shapes import describe_size, network_size, parse_size, resolve_network_size, resolve_output_size


@pytest.mark.parametrize("image", [(480, 640), (640, 480), (333, 1000), (1, 1), (225, 224), (37, 41)])
@pytest.mark.parametrize("multiple", [14, 16, 32])
def test_the_aspect_ratio_changes_by_no_more_than_the_rounding(image: tuple[int, int], multiple: int) -> None:
    height, width = network_size(image, 224, multiple)
    scale = 224 / min(image)
    assert height % multiple == width % multiple == 0
    assert abs(height - image[0] * scale) <= multiple / 2
    assert abs(width - image[1] * scale) <= multiple / 2


def test_resize_takes_a_short_side_or_both_sides() -> None:
    assert resolve_network_size((300, 600), "448", (224, 224), 16, None, "x") == (448, 896)
    assert resolve_network_size((300, 600), 100, (224, 224), 16, None, "x") == (96, 208)
    assert resolve_network_size((300, 600), "100x200", (224, 224), 16, None, "x") == (96, 192)
    assert resolve_network_size((300, 600), None, (224, 224), 14, None, "x") == (224, 448)


def test_a_backbone_of_one_size_refuses_another() -> None:
    assert resolve_network_size((300, 600), None, (224, 224), 32, (256, 256), "x") == (256, 256)
    with pytest.raises(UsageError, match=r"256x256 pixels \(height x width\) only"):
        resolve_network_size((300, 600), "448", (224, 224), 32, (256, 256), "x")


def test_an_extreme_aspect_ratio_is_refused_with_the_size_it_would_take() -> None:
    with pytest.raises(UsageError, match=r"strip\.png.*224x298672.*--resize"):
        resolve_network_size((3, 4000), None, (224, 224), 16, None, "strip.png")
    assert resolve_network_size((3, 4000), "16", (224, 224), 16, None, "strip.png") == (16, 21328)


def test_messages_say_which_side_is_which() -> None:
    assert describe_size((480, 640)) == "480x640 (height x width)"
    assert describe_size((1, 2), "pixels") == "1x2 pixels (height x width)"


@pytest.mark.parametrize("text", ["", "0x3", "3x0", "axb", "12", "1x2x3", "-1x4", "10 by 4"])
def test_sizes_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="HEIGHTxWIDTH"):
        parse_size(text, "--resize")


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, (224, 336)), ("image", (427, 640)), ("100x77", (100, 77)), ("8x", (112, 168)), ("1.5x", (21, 32))],
)
def test_output_size_forms(text: str | None, expected: tuple[int, int]) -> None:
    assert resolve_output_size(text, (427, 640), (224, 336), (14, 21)) == expected


@pytest.mark.parametrize("text", ["big", "0x0", "x", "0.001x", "1e9x"])
def test_output_sizes_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--output-size"):
        resolve_output_size(text, (427, 640), (224, 336), (14, 21))
