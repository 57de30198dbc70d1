"""The fit as a whole, on a backbone whose true features per pixel are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from featup_cli.core.errors import InputError, ShapeError, UsageError
from featup_cli.upsamplers.implicit.anchor import fit_slopes
from featup_cli.upsamplers.implicit.config import PRESETS, ImplicitConfig, implicit_config
from featup_cli.upsamplers.implicit.model import FeatureBuffer, ImplicitNetwork
from featup_cli.upsamplers.implicit.saved import SIZE_BUDGET, load_model, save_model
from featup_cli.upsamplers.implicit.upsampler import ImplicitUpsampler
from featup_cli.upsamplers.registry import make_upsampler

SIZE = (96, 128)
STRIDE = 16
FAST = ImplicitConfig(views=16, heldout_views=3, max_steps=40, tokens=128, hidden=48)
MIX = torch.randn(12, 6, generator=torch.Generator().manual_seed(5))


def true_features(image: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] to [B, 12, H, W]: what each pixel means to the toy backbone."""
    basis = torch.cat((image, (4 * image).sin()), 1)
    return torch.einsum("ck,bkhw->bchw", MIX, basis)


def toy_backbone(image: torch.Tensor) -> torch.Tensor:
    """Pools the true features over windows of 1.5 tokens: [B, 12, H / 16, W / 16]."""
    padded = F.pad(true_features(image), (4, 4, 4, 4), mode="reflect")
    return F.avg_pool2d(padded, 24, stride=STRIDE)


def scene() -> torch.Tensor:
    """Flat shapes on a gradient, [1, 3, *SIZE]: edges that tokens can't resolve."""
    y, x = torch.meshgrid(torch.linspace(0, 1, SIZE[0]), torch.linspace(0, 1, SIZE[1]), indexing="ij")
    image = torch.stack((0.3 + 0.2 * y, 0.4 + 0.1 * x, torch.full_like(x, 0.5)))
    image[:, (y - 0.5).square() + (x - 0.35).square() < 0.05] = torch.tensor([0.9, 0.2, 0.1])[:, None]
    image[:, :, 92:98] = torch.tensor([0.1, 0.1, 0.9])[:, None, None]
    return image[None]


def fitted(config: ImplicitConfig = FAST, seed: int = 0) -> tuple[torch.Tensor, ImplicitUpsampler]:
    upsampler = ImplicitUpsampler(toy_backbone, SIZE, config, seed)
    return upsampler(scene(), toy_backbone(scene()), SIZE), upsampler


def error(features: torch.Tensor) -> float:
    truth = true_features(scene())
    return float((features - truth).square().mean() / (truth - truth.mean((2, 3), keepdim=True)).square().mean())


def test_comes_much_closer_to_the_true_features_than_bilinear() -> None:
    features, upsampler = fitted()
    bilinear = make_upsampler("bilinear")(scene(), toy_backbone(scene()), SIZE)
    assert features.shape == (1, 12, *SIZE)
    assert error(features) < 0.6 * error(bilinear)
    scores = upsampler.details.scores
    assert scores["explained_variance"] > scores["bilinear_explained_variance"] + 0.05


def test_steps_improve_on_the_initialisation() -> None:
    start, _ = fitted(replace(FAST, max_steps=1, learning_rate=1e-9))
    assert error(fitted()[0]) < error(start)


@pytest.mark.parametrize(
    "changes",
    [
        {"downsampler": "simple"},
        {"uncertainty": False},
        {"tv_weight": 0.05, "magnitude_weight": 0.001},
        {"color_features": False},
        {"frequencies": 3},
        {"representation": "buffer"},
        {"anchored": False},
        {"optimizer": "nadam", "average": 0.0, "dropout": 0.1},
        {"flips": False, "max_pad": 0.0, "zoom_share": 0.0},
        {"pooling": "unbiased"},
        {"pooling": "dense", "jitters": 2},
        {"channel_error": "sum"},
        {"schedule": "constant"},
        {"magnitude_weight": 0.001, "magnitude_prior": "observed"},
        {"kernel_size": 20.0},
    ],
    ids=str,
)
def test_every_ablation_runs_and_changes_the_result(changes: dict[str, object]) -> None:
    config = replace(FAST, max_steps=6)
    plain, _ = fitted(config)
    changed, upsampler = fitted(replace(config, **changes))  # type: ignore[arg-type]
    assert bool(torch.isfinite(changed).all())
    assert not torch.equal(plain, changed)
    assert ("saliency" in upsampler.details.maps) == (changes.get("downsampler") != "simple")
    assert ("uncertainty" in upsampler.details.maps) == (changes.get("uncertainty") is not False)


def test_the_same_seed_gives_the_same_result_and_leaves_the_callers_random_state_alone() -> None:
    config = replace(FAST, max_steps=5)
    state = torch.get_rng_state()
    first, again, other = fitted(config)[0], fitted(config)[0], fitted(config, seed=1)[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fewer_components_leave_out_variance_and_say_so() -> None:
    _, upsampler = fitted(replace(FAST, components=2, max_steps=5))
    assert upsampler.model is not None
    assert upsampler.model.pca.basis.shape == (2, 12)
    scores = upsampler.details.scores
    assert 0.5 < scores["pca_explained_variance"] < 0.999
    assert scores["explained_variance"] < scores["pca_explained_variance"]


@pytest.mark.parametrize("output", [(7, 5), (96, 128), (130, 301)])
def test_renders_any_size_and_the_same_from_a_file(output: tuple[int, int], tmp_path: Path) -> None:
    upsampler = ImplicitUpsampler(toy_backbone, SIZE, replace(FAST, max_steps=3))
    features = upsampler(scene(), toy_backbone(scene()), output)
    assert features.shape == (1, 12, *output)
    assert upsampler.model is not None
    path = tmp_path / "m.safetensors"
    save_model(path, upsampler.model, {"note": "x"})
    assert path.stat().st_size < SIZE_BUDGET
    loaded, provenance = load_model(path)
    assert provenance == {"note": "x"}
    from_file = loaded.render(loaded.guidance.tensor(), output)
    # The guidance picture in the file has 8 bits a channel.
    torch.testing.assert_close(from_file, features[0], atol=0.05, rtol=0.01)


@pytest.mark.parametrize(
    "changes", [{"anchored": False}, {"representation": "buffer"}, {"color_features": False}], ids=str
)
def test_every_kind_of_field_survives_its_file(changes: dict[str, object], tmp_path: Path) -> None:
    _, upsampler = fitted(replace(FAST, max_steps=2, **changes))  # type: ignore[arg-type]
    assert upsampler.model is not None
    save_model(tmp_path / "m.safetensors", upsampler.model, {})
    loaded, _ = load_model(tmp_path / "m.safetensors")
    picture = loaded.guidance.tensor()
    torch.testing.assert_close(loaded.render(picture, (20, 30)), upsampler.model.render(picture, (20, 30)))


def test_files_that_are_no_model_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\xff" * 100)
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(3)}, other)
    broken = tmp_path / "broken.safetensors"
    save_file({"x": torch.zeros(3)}, broken, {"format": "featup-implicit-1", "featup": "{}"})
    for path in (garbage, other, broken, tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(InputError, match=path.name):
            load_model(path)


def test_one_picture_at_a_time() -> None:
    upsampler = ImplicitUpsampler(toy_backbone, SIZE, FAST)
    with pytest.raises(ShapeError, match="one picture at a time"):
        upsampler(scene().expand(2, -1, -1, -1), toy_backbone(scene()).expand(2, -1, -1, -1), SIZE)


def test_position_frequencies_stay_below_the_nyquist_limit_of_the_pixel_grid() -> None:
    for config in PRESETS.values():
        network = ImplicitNetwork(4, (224, 320), config)
        radians_per_pixel = network.position_frequencies / (224 / 2)
        assert float(radians_per_pixel.max()) < math.pi
        assert len(network.position_frequencies) == config.frequencies


def test_the_buffer_returns_its_pixels() -> None:
    grid = torch.randn(2, 3, 4)
    centres = torch.tensor([[0.5 / 3, 0.5 / 4], [2.5 / 3, 1.5 / 4]])
    torch.testing.assert_close(
        FeatureBuffer(grid)(centres, torch.zeros(2, 3)), torch.stack((grid[:, 0, 0], grid[:, 2, 1]))
    )


def test_slopes_recover_a_linear_dependence_on_colour() -> None:
    picture = torch.rand(3, 64, 64)
    truth = torch.randn(2, 3)
    grid = F.avg_pool2d(torch.einsum("kc,chw->khw", truth, picture)[None], 4)[0]
    slope = fit_slopes(grid, picture, (4, 4))[1].view(3, 2, 4, 4).mean((2, 3)).T
    assert float((slope - truth).norm() / truth.norm()) < 0.35


def test_settings_are_parsed_and_checked() -> None:
    config = implicit_config(
        "paper", {"views": 3, "tv_weight": None}, ["downsampler=simple", "uncertainty=false", "hidden=7"]
    )
    assert (config.views, config.tv_weight, config.downsampler, config.uncertainty, config.hidden) == (
        3,
        0.05,
        "simple",
        False,
        7,
    )
    for text in ("hidden", "hiden=3", "hidden=x", "hidden=0", "downsampler=best", "uncertainty=maybe",
                 "positions=10", "position_limit=1.5", "max_zoom=0.5", "dropout=2", "tv_weight=-1"):  # fmt: skip
        with pytest.raises(UsageError, match=text.split("=")[0]):
            implicit_config("default", {}, [text])
