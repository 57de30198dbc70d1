"""The preset that bears the paper's name: its values, and that a fit takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import featup_cli as featup
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.progress import no_progress
from featup_cli.core.settings import recorded
from featup_cli.engine.pipeline import Pipeline
from featup_cli.engine.settings import Upsampling
from featup_cli.pictures.read import load_image
from featup_cli.upsamplers.implicit import fit as fitting
from featup_cli.upsamplers.implicit import loss as losses
from featup_cli.upsamplers.implicit.config import PRESETS, ImplicitConfig
from featup_cli.upsamplers.implicit.model import ImplicitNetwork
from featup_cli.upsamplers.implicit.observe import observe
from featup_cli.upsamplers.implicit.sampler import TokenSampler
from tests.upsamplers.test_implicit import FAST, SIZE, fitted, toy_backbone
from tests.upsamplers.test_implicit_pooling import DENSE, toy

PAPER = PRESETS["paper"]

# FeatUp, table 7, column "FeatUp (Implicit)": the paper's words, its value, and where the preset has it.
TABLE_7: list[tuple[str, object, dict[str, object]]] = [
    ("Num Jitters Per Image", 10, {"jitters": 10}),
    ("Downsampler", "Attention", {"downsampler": "attention"}),
    ("Optimizer", "NAdam", {"optimizer": "nadam"}),
    ("Learning Rate", 0.001, {"learning_rate": 0.001, "schedule": "constant"}),
    ("Image Load Size", 224, {"load_size": 224, "full_detail": False}),
    ("Projection Dim", 128, {"components": 128}),
    ("Training Steps", 2000, {"max_steps": 2000, "keep": "last", "average": 0.0}),
    ("Max Transform Padding", "30px", {"max_pad": 30.0}),
    ("Max Transform Zoom", "1.8x", {"max_zoom": 1.8}),
    ("Kernel Size", 29, {"kernel_size": 29.0, "scale_kernel": False}),
    ("Total Variation Weight", 0.05, {"tv_weight": 0.05}),
    ("Implicit Net Layers", 3, {"layers": 3}),
    ("Implicit Net Dropout", 0.1, {"dropout": 0.1}),
]
SECTIONS: list[tuple[str, dict[str, object]]] = [
    ("equation 1: squared norm, all of the transformed features pooled", {"channel_error": "sum", "pooling": "dense"}),
    ("equation 1: adaptive uncertainty", {"uncertainty": True}),
    ("section 3.2: the network alone", {"representation": "network", "anchored": False}),
    ("section 3.2: Fourier colour features", {"color_features": True}),
    ("section 6.4: magnitude regularizer", {"magnitude_weight": 0.001, "magnitude_prior": "observed"}),
]


@pytest.mark.parametrize("settings", [row[-1] for row in (*TABLE_7, *SECTIONS)], ids=lambda row: ",".join(row))
def test_the_preset_is_the_paper(settings: dict[str, object]) -> None:
    assert {name: getattr(PAPER, name) for name in settings} == settings


def test_the_network_has_the_papers_layers_and_activation() -> None:
    network = ImplicitNetwork(128, (224, 224), PAPER)
    kinds = [type(layer) for layer in (*network.trunk, network.head)]
    block = [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Dropout]
    assert kinds == [*block, *block, nn.Linear]  # "Implicit Net Activation: ReLU"
    assert sum(p.numel() for p in network.parameters()) < 384 * 224 * 224 / 100  # than one of DINO's


def test_a_fit_takes_ten_views_a_step_at_one_rate_and_keeps_the_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, drawn, scored = list[float](), list[Tensor](), list[int]()
    pool, score, set_rate = losses.pool_views, fitting.explained_variance, fitting.set_learning_rate

    def pooled(*inputs: Any) -> tuple[Tensor, Tensor]:
        drawn.append(inputs[-1])
        return pool(*inputs)

    def scoring(*inputs: Any) -> float:
        scored.append(len(rates))
        return score(*inputs)

    monkeypatch.setattr(losses, "pool_views", pooled)
    monkeypatch.setattr(fitting, "explained_variance", scoring)
    monkeypatch.setattr(fitting, "set_learning_rate", lambda o, rate: (rates.append(rate), set_rate(o, rate)))
    steps = 9
    features, upsampler = fitted(replace(PAPER, views=12, max_steps=steps, patience=1))
    assert bool(torch.isfinite(features).all())
    assert upsampler.details.scores["steps"] == steps
    assert rates == [1e-3] * 2 * steps  # of the fit, and of bilinear beside it
    assert [len(views) for views in drawn] == [10] * 2 * steps
    assert scored == [steps, 2 * steps]  # the last state, whatever its score


def test_a_fit_by_the_preset_learns() -> None:
    short, long = (fitted(replace(PAPER, views=12, jitters=3, max_steps=steps))[1].details.scores for steps in (1, 25))
    assert long["explained_variance"] > short["explained_variance"] + 0.05


def test_the_settings_give_the_size_of_the_networks_input_unless_it_is_asked_for(photo: Path) -> None:
    fast = replace(FAST, max_steps=1, load_size=64)
    assert min(featup.upsample(photo, implicit=fast).provenance["network_size"]) == 64
    assert min(featup.upsample(photo, implicit=fast, resize=96).provenance["network_size"]) == 96
    assert Upsampling(implicit=PAPER, method="bilinear").short_side is None


@pytest.mark.parametrize(("stride", "scaled"), [(8, 14), (14, 25), (32, 58)])
def test_the_kernel_has_29_pixels_at_any_stride(stride: int, scaled: int) -> None:
    seen = toy(DENSE)[1].observations
    sides = [TokenSampler(seen, torch.rand(3, 32, 32), stride, config).side for config in (PAPER, ImplicitConfig())]
    assert sides == [29, scaled]


def test_views_show_the_picture_as_it_was_loaded() -> None:
    shown = list[tuple[int, int]]()
    for config in (PAPER, ImplicitConfig()):
        few = replace(config, views=2, heldout_views=1)
        seen = observe(torch.rand(3, 200, 300), SIZE, toy_backbone, few, torch.Generator().manual_seed(0), no_progress)
        shown.append(seen.views.image_size)
    assert shown == [SIZE, (round(SIZE[0] * 1.8), round(SIZE[1] * 1.8))]


def test_a_backbone_of_one_size_keeps_it(photo: Path) -> None:
    backbone = replace(load_backbone("tiny"), fixed_size=(96, 96))
    assert Pipeline(Upsampling(implicit=PAPER), backbone).plan(load_image(photo)).network == (96, 96)


def test_records_have_the_later_settings_only_where_one_is_used() -> None:
    assert "pooling" not in recorded(ImplicitConfig())
    assert recorded(PAPER)["jitters"] == 10
    assert recorded(replace(ImplicitConfig(), keep="last")).keys() == recorded(PAPER).keys()
