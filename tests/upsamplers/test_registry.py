from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.upsamplers.method import Needs
from featup_cli.upsamplers.registry import METHODS, TRAINABLE, make_upsampler
from featup_cli.upsamplers.weights.file import build_upsampler, save_upsampler

IMAGE = torch.rand(2, 3, 40, 56)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "guided", "classical-jbu"])
@pytest.mark.parametrize("output", [(5, 9), (37, 53), (3, 4)])
def test_interpolation_gives_the_exact_size_and_keeps_constants(method: str, output: tuple[int, int]) -> None:
    lr_feats = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1).expand(2, 3, 5, 7)
    hr_feats = make_upsampler(method)(IMAGE, lr_feats, output)
    assert hr_feats.shape == (2, 3, *output)
    torch.testing.assert_close(hr_feats, lr_feats[:, :, :1, :1].expand(2, 3, *output))


def test_nearest_copies_each_token_to_its_own_cell() -> None:
    lr_feats = torch.arange(6.0).view(1, 1, 2, 3)
    hr_feats = make_upsampler("nearest")(IMAGE[:1], lr_feats, (4, 6))
    assert torch.equal(hr_feats, lr_feats.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_bilinear_is_centred_on_half_cells() -> None:
    lr_feats = torch.randn(1, 2, 4, 5)
    expected = F.interpolate(lr_feats, size=(9, 11), mode="bilinear", align_corners=False)
    assert torch.equal(make_upsampler("bilinear")(IMAGE[:1], lr_feats, (9, 11)), expected)


def test_every_listed_method_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featup_cli.upsamplers.weights.find.SHIPPED", tmp_path)
    for method in TRAINABLE:
        config = {} if method == "jbu" else {"channels": 3}
        about = {"backbone": "any", "provenance": {}, "card": ""}
        save_upsampler(tmp_path / f"{method}.safetensors", build_upsampler(method, config), about)
    vit = BackboneConfig("vit_tiny_patch16_224", random_weights=True, model_args={"depth": 1})
    cnn = BackboneConfig("resnet18", random_weights=True)
    for method in METHODS:
        backbone = (lambda x: x) if method in TRAINABLE else load_backbone(cnn if method == "dilated" else vit)
        assert make_upsampler(method, backbone=backbone, network_size=(16, 16)) is not None


def test_unknown_or_incomplete_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="one of: nearest"):
        make_upsampler("bilinar")
    for method in (m.name for m in METHODS.values() if m.needs is Needs.BACKBONE):
        with pytest.raises(UsageError, match=f"{method} needs the backbone"):
            make_upsampler(method)


def test_wrong_shapes_are_refused() -> None:
    upsampler = make_upsampler("bilinear")
    with pytest.raises(ShapeError, match=r"\[B, 3, H, W\]"):
        upsampler(torch.zeros(3, 8, 8), torch.zeros(1, 2, 2, 2), (4, 4))
    with pytest.raises(ShapeError, match="lr_feats"):
        upsampler(IMAGE, torch.zeros(1, 2, 2, 2), (4, 4))
    with pytest.raises(ShapeError, match="output_size"):
        upsampler(IMAGE, torch.zeros(2, 2, 2, 2), (0, 4))
