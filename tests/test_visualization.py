"""Pictures of feature files share one basis and one scale, and go where they are expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from featup_cli.core.errors import InputError, UsageError
from featup_cli.io.features import FeatureFile, load_features
from featup_cli.io.stream import save_features
from featup_cli.pictures.components import Preview
from featup_cli.pictures.panels import FRAME
from featup_cli.pictures.visualize import parse_components, parse_show, visualize


def maps(seed: int = 0, channels: int = 8, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """High-resolution features [C, 32, 48] of one fixed scene kind, and their 8 x 8 pooling [C, 4, 6]."""
    scene = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    scene = F.interpolate(scene, size=(32, 48), mode="bilinear")[0] * torch.tensor([3.0, 2, 1])[:, None, None]
    mix = torch.randn(channels, 3, generator=torch.Generator().manual_seed(99))
    features = torch.einsum("ck,khw->chw", mix, scene) + shift
    return features, F.avg_pool2d(features, 8)


def write(path: Path, seed: int = 0, channels: int = 8, image: Path | None = None, learned: bool = False) -> Path:
    features, lr_features = maps(seed, channels)
    extras = {"saliency": features[0], "kernels": torch.rand(2, 5, 5)} if learned else {}
    uncertainty = lr_features.std(0) if learned else None
    provenance = {} if image is None else {"input": {"path": str(image)}}
    save_features(path, features, lr_features=lr_features, uncertainty=uncertainty, **extras, provenance=provenance)
    return path


@pytest.fixture
def rendered(tmp_path: Path) -> Callable[..., list[np.ndarray]]:
    """Pictures of features, and of their low resolution if there is any, as `visualize` writes them."""

    def render(*features: tuple[Tensor, ...], **options: Any) -> list[np.ndarray]:
        paths = [tmp_path / f"{number}.safetensors" for number in range(len(features))]
        for path, (high, *low) in zip(paths, features, strict=True):
            maps = {"lr_features": low[0]} if low else {}
            save_features(path, high, **maps, provenance={}, dtype=torch.float32)
        return [np.array(Image.open(path)) for path in visualize(paths, **options)]

    return render


def preview(image: np.ndarray | None, lr_features: Tensor, features: Tensor, *uncertainty: Tensor) -> np.ndarray:
    made = Preview((features.shape[1], features.shape[2]), lr_features, image)
    made.add(features)
    return made.render(*uncertainty)


def panels(canvas: np.ndarray) -> list[np.ndarray]:
    """The panels of a picture with one row of them, found by their frames."""
    line = (canvas == FRAME).all(-1)
    columns, rows = (np.nonzero(line.sum(axis) > 200)[0] for axis in (0, 1))
    return [canvas[rows[0] + 1 : rows[1], left + 1 : right] for left, right in columns.reshape(-1, 2)]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def shape(path: Path) -> tuple[int, int]:
    width, height = Image.open(path).size
    return height, width


@pytest.mark.parametrize(
    ("text", "parsed"), [("1-3", (1, 2, 3)), ("4-6", (4, 5, 6)), ("1,3,5", (1, 3, 5)), (" 3, 2 ,1", (3, 2, 1))]
)
def test_parse_components(text, parsed):
    assert parse_components(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "1", "1,2", "1-2", "1-4", "1-999999999999", "6-4", "0-2", "0,1,2", "a,b,c", "-1,2,3", "1.5,2,3"]
)
def test_bad_components_are_usage_errors(text):
    with pytest.raises(UsageError, match="components"):
        parse_components(text)


def test_components_above_the_channels_are_usage_errors(rendered):
    assert rendered(maps(), components=parse_components("6-8"))
    with pytest.raises(UsageError, match="8 channels"):
        rendered(maps(), components=(7, 8, 9))


def test_parse_show():
    assert parse_show("Uncertainty, downsampler") == ("uncertainty", "downsampler")
    with pytest.raises(UsageError, match="features, uncertainty, downsampler"):
        parse_show("kernels")


def test_equal_features_get_equal_colours_in_every_map_and_file(rendered):
    (one, lr_one), (two, lr_two) = maps(0), maps(1)
    two[:, :8, :8] = one[:, :8, :8]
    first, second = rendered((one, lr_one), (two, lr_two), layout="plain")
    np.testing.assert_array_equal(first[:8, :8], second[:8, :8])
    assert np.ptp(first) > 200


def test_low_and_high_resolution_share_colours(rendered):
    # Constant within each token, so every pixel must get exactly the colour of its token.
    lr_features = maps(0)[1]
    features = lr_features.repeat_interleave(8, 1).repeat_interleave(8, 2)
    left, right = panels(rendered((features, lr_features))[0])
    assert left.shape == (224, 224 * 48 // 32, 3)
    np.testing.assert_array_equal(left, right)


def test_one_scale_for_all_files_not_one_each(rendered):
    strong, weak = maps(0)[0], maps(0)[0] * 0.1
    first, second = rendered((strong,), (weak,), layout="plain")
    assert np.ptp(second[..., 0]) < 0.3 * np.ptp(first[..., 0])


def test_colours_are_the_same_in_every_run_and_little_changed_by_noise():
    features, lr_features = maps()
    torch.manual_seed(0)
    first = preview(None, lr_features, features)
    torch.manual_seed(1)
    np.testing.assert_array_equal(first, preview(None, lr_features, features))
    noisy = preview(None, lr_features, features + 0.01 * torch.randn(features.shape))
    assert np.abs(first.astype(int) - noisy).mean() < 3


def test_components_choose_what_is_shown(rendered):
    rgb, turned = (rendered(maps(), layout="plain", components=c)[0] for c in ((1, 2, 3), (3, 1, 2)))
    np.testing.assert_array_equal(rgb[..., [2, 0, 1]], turned)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_few_channels_still_make_a_picture(channels, rendered):
    rgb = rendered(maps(channels=channels), layout="plain")[0]
    assert np.ptp(rgb) > 200


@pytest.mark.parametrize("features", [torch.zeros(8, 5, 5), torch.ones(8, 1, 1), torch.ones(3, 1, 2)])
def test_constant_and_tiny_features_still_make_a_picture(features, rendered):
    assert rendered((features,))[0].dtype == np.uint8
    assert preview(None, features, features).dtype == np.uint8


def test_the_picture_of_a_result_has_a_panel_for_everything():
    features, lr_features = maps()
    image = np.zeros((64, 96, 3), np.uint8)
    widths = [
        preview(image, lr_features, features, lr_features.std(0)).shape[1],
        preview(image, lr_features, features).shape[1],
        preview(None, lr_features, features).shape[1],
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] - widths[1] == widths[1] - widths[2] > 224


def test_writes_beside_the_file_with_its_picture(tmp_path, photo):
    bare, pictured = write(tmp_path / "bare.safetensors"), write(tmp_path / "a.b.safetensors", image=photo)
    seen: list[Path] = []
    written = visualize([bare, pictured], on_written=seen.append)
    assert written == seen == [tmp_path / "bare.pca.png", tmp_path / "a.b.pca.png"]
    assert shape(written[1])[1] > shape(written[0])[1]
    assert shape(visualize([bare], image=photo, overwrite=True)[0]) == shape(written[1])


def test_output_is_a_folder_or_a_png(tmp_path):
    one, two = write(tmp_path / "one.safetensors"), write(tmp_path / "two.safetensors", seed=1)
    assert visualize([one, two], output=tmp_path / "new") == [
        tmp_path / "new" / "one.pca.png",
        tmp_path / "new" / "two.pca.png",
    ]
    assert visualize([one], output=tmp_path / "x.png") == [tmp_path / "x.png"]
    with pytest.raises(UsageError, match="give a folder"):
        visualize([one, two], output=tmp_path / "x.png")
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError, match="two files"):
        visualize([one, write(tmp_path / "sub" / "one.safetensors")], output=tmp_path / "new")
    with pytest.raises(UsageError, match="no feature files"):
        visualize([])


def test_never_writes_over_the_photograph_or_a_feature_file(tmp_path, photo):
    features = write(tmp_path / "photo.safetensors", image=photo)
    before = photo.read_bytes()
    with pytest.raises(UsageError, match="is an input"):
        visualize([features], image=photo, output=photo, overwrite=True)
    with pytest.raises(UsageError, match="--output"):
        visualize([write(tmp_path / "other.safetensors")], image=photo, output=photo)
    misnamed = write(tmp_path / "f.png")
    with pytest.raises(UsageError, match="--output"):
        visualize([misnamed], output=misnamed, overwrite=True)
    assert photo.read_bytes() == before
    load_features(misnamed)


def test_names_tell_settings_and_nothing_is_replaced_unasked(tmp_path):
    path = write(tmp_path / "a.safetensors", learned=True)
    named = {
        "a.pca.png": {},
        "a.pca.4-5-6.png": {"components": (4, 5, 6)},
        "a.pca.plain.png": {"layout": "plain"},
        "a.pca.1-3-5.plain.uncertainty.png": {
            "components": (1, 3, 5), "layout": "plain", "show": ("uncertainty",)
        },
    }  # fmt: skip
    for name, settings in named.items():
        assert visualize([path], **settings) == [tmp_path / name]
    before = {name: (tmp_path / name).read_bytes() for name in named}
    for settings in named.values():
        with pytest.raises(UsageError, match="exists already; give --overwrite to replace it"):
            visualize([path], **settings)
    assert {name: (tmp_path / name).read_bytes() for name in named} == before
    visualize([path], overwrite=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.pca.png")
    with pytest.raises(UsageError, match="was not made by featup"):
        visualize([path], overwrite=True)


def test_different_channel_counts_name_both_files(tmp_path):
    one, two = write(tmp_path / "one.safetensors"), write(tmp_path / "two.safetensors", channels=9)
    with pytest.raises(InputError) as caught:
        visualize([one, two])
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)
    assert not (tmp_path / "one.pca.png").exists()


def test_layouts(tmp_path, photo):
    path = write(tmp_path / "a.safetensors", image=photo, learned=True)
    assert shape(visualize([path], layout="plain")[0]) == (32, 48)
    assert shape(visualize([path], layout="plain", show=["uncertainty"])[0]) == (32, 48)
    assert shape(visualize([path], layout="overlay")[0]) == (64, 96)
    with pytest.raises(UsageError, match="side-by-side"):
        visualize([path], layout="grid")
    with pytest.raises(UsageError, match="shows one map"):
        visualize([path], layout="plain", show=["features", "uncertainty"])
    with pytest.raises(InputError, match="--image"):
        visualize([write(tmp_path / "b.safetensors")], layout="overlay")


def test_show(tmp_path):
    path = write(tmp_path / "a.safetensors", learned=True)
    shows = (None, ("features",), ("downsampler",), ("features", "uncertainty", "downsampler"))
    area = {show: np.prod(shape(visualize([path], show=show)[0])) for show in shows}
    assert area[shows[3]] > 1.5 * area[None]
    assert area[None] > area[("features",)]
    plain = write(tmp_path / "plain.safetensors")
    for show in ("uncertainty", "downsampler"):
        with pytest.raises(InputError, match=f"plain.safetensors: holds no {show}"):
            visualize([plain], show=[show])


def test_a_picture_that_moved_is_left_out_and_a_bad_option_is_not(tmp_path):
    path = write(tmp_path / "a.safetensors", image=tmp_path / "moved.png")
    assert visualize([path])[0].exists()
    with pytest.raises(InputError, match="no such file"):
        visualize([path], image=tmp_path / "missing.png", overwrite=True)


def test_many_files_are_read_one_at_a_time(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{i}.safetensors", seed=i) for i in range(3)]
    reads: list[Path] = []

    def counted(path: Path) -> FeatureFile:
        reads.append(path)
        return load_features(path)

    monkeypatch.setattr("featup_cli.pictures.visualize.load_features", counted)
    visualize(paths)
    assert reads == paths * 2
    reads.clear()
    visualize(paths[:1], overwrite=True)
    assert reads == paths[:1]
