"""The class token, against timm's own features of whole models with untrained weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import featup_cli as featup
from featup_cli.backbones.api import Backbone, TokenNetwork
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.backbones.weights import seeded
from featup_cli.cli.app import app
from featup_cli.io.header import read_provenance
from featup_cli.io.safetensors import read_header
from featup_cli.io.stream import save_features

VIT = "vit_tiny_patch16_224"
SHORT = {"depth": 2}


def untrained(name: str = VIT, layer: int | None = None, norm: bool = True, **arguments: object) -> Backbone:
    return load_backbone(BackboneConfig(name, layer, norm, random_weights=True, model_args=arguments))


def images(backbone: Backbone, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, *backbone.native_size, generator=torch.Generator().manual_seed(1))


def whole_model(backbone: Backbone, pixels: torch.Tensor, name: str, **arguments: object) -> torch.Tensor:
    """All tokens [B, P + N, C] by timm's own pass through the same weights."""
    switch = {"dynamic_img_size": True} if "dynamic_img_size" in backbone.details["model_args"] else {}
    with seeded():
        model = timm.create_model(name, **switch, **arguments).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        return model.forward_features((pixels - mean) / std)


@pytest.mark.parametrize(
    ("name", "arguments", "prefix"),
    [
        (VIT, SHORT, 1),
        ("deit_tiny_distilled_patch16_224", SHORT, 2),  # class and distillation token
        ("vit_small_patch14_reg4_dinov2", {**SHORT, "img_size": 70}, 5),  # class token and registers
        ("vit_small_patch16_dinov3", SHORT, 5),
        ("eva02_tiny_patch14_224", SHORT, 1),  # its norm comes after pooling
        ("beit_base_patch16_224", SHORT, 1),
        ("vit_relpos_base_patch16_cls_224", SHORT, 1),
    ],
)
def test_it_is_the_first_token_of_the_whole_model(name: str, arguments: dict[str, object], prefix: int) -> None:
    backbone = untrained(name, **arguments)
    pixels = images(backbone)
    lr_feats, class_token = backbone.extract(pixels)
    tokens = whole_model(backbone, pixels, name, **arguments)
    assert class_token is not None
    assert class_token.shape == (2, backbone.channels)
    assert class_token.dtype == torch.float32
    torch.testing.assert_close(class_token, tokens[:, 0])
    torch.testing.assert_close(lr_feats.flatten(2).mT, tokens[:, prefix:])
    assert torch.equal(lr_feats, backbone(pixels))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
        ("vit_base_patch16_siglip_gap_224", SHORT),  # pools its patches
        ("vit_base_patch16_siglip_224", SHORT),  # pools them by attention
        ("vit_medium_patch16_reg4_gap_256", SHORT),  # registers, but no class token
        ("cait_xxs24_224", {"depth": 1}),  # adds it behind the blocks
        ("densenet121", {}),
    ],
)
def test_networks_without_it_have_none(name: str, arguments: dict[str, object]) -> None:
    backbone = untrained(name, **arguments)
    pixels = images(backbone, 1)
    lr_feats, class_token = backbone.extract(pixels)
    assert class_token is None
    assert torch.equal(lr_feats, backbone(pixels))


@pytest.mark.parametrize(("layer", "norm"), [(0, True), (0, False), (-1, False)])
def test_it_is_of_the_same_layer_and_norm_as_the_features(layer: int, norm: bool) -> None:
    backbone = untrained(layer=layer, norm=norm, **SHORT)
    found: list[torch.Tensor] = []
    network = backbone.network
    assert isinstance(network, TokenNetwork)
    pixels = images(backbone)
    with seeded():
        model = timm.create_model(VIT, **SHORT).eval()
    model.blocks[layer].register_forward_hook(lambda *seen: found.append(seen[2]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        model.forward_features((pixels - mean) / std)
        expected = model.norm(found[0]) if norm else found[0]
    lr_feats, class_token = backbone.extract(pixels)
    torch.testing.assert_close(class_token, expected[:, 0])
    torch.testing.assert_close(lr_feats.flatten(2).mT, expected[:, 1:])


def test_lower_precision_gives_the_features_of_the_call() -> None:
    config = BackboneConfig(VIT, random_weights=True, model_args=SHORT, precision="bfloat16")
    backbone, exact = load_backbone(config), untrained(**SHORT)
    pixels = images(backbone, 1)
    lr_feats, class_token = backbone.extract(pixels)
    assert torch.equal(lr_feats, backbone(pixels))
    torch.testing.assert_close(class_token, exact.extract(pixels).class_token, rtol=0.05, atol=0.05)


def test_overlapping_patches_have_one_too() -> None:
    backbone, pixels = untrained(**SHORT), torch.rand(1, 3, 64, 80)
    dense = backbone.with_stride(8)
    lr_feats, class_token = dense.extract(pixels)
    assert class_token is not None
    assert class_token.shape == (1, 192)
    assert torch.equal(lr_feats, dense(pixels))
    assert not torch.equal(class_token, torch.as_tensor(backbone.extract(pixels).class_token))


def test_a_result_its_file_and_every_format_hold_it(photo: Path, tmp_path: Path) -> None:
    backbone = untrained(**SHORT)
    result = featup.upsample(photo, backbone=backbone, method="bilinear", resize=64)
    token = result.class_token
    assert token is not None
    assert token.shape == (192,)
    saved = result.save(tmp_path / "r.safetensors")
    file = featup.load_features(saved)
    assert file.class_token is not None
    assert file.class_token.dtype == torch.float32
    assert torch.equal(file.class_token, token)
    (npz,) = featup.export([saved], "npz")
    assert np.array_equal(np.load(npz)["class_token"], token.numpy())
    (projected,) = featup.export([saved], "pt", components=4)
    loaded = torch.load(projected, weights_only=True)
    expected = (token - loaded["pca_mean"]) @ loaded["pca_basis"].T
    torch.testing.assert_close(loaded["class_token"], expected, rtol=1e-4, atol=1e-4)
    info = CliRunner().invoke(app, ["info", str(saved), "--json"])
    assert json.loads(info.stdout)["tensors"]["class_token"] == {"shape": [192], "dtype": "float32"}


def test_pictures_of_one_batch_have_their_own_and_older_files_stay_up_to_date(tmp_path: Path) -> None:
    for name, value in (("a", 20), ("b", 220)):
        Image.new("RGB", (64, 64), (value, 90, 250 - value)).save(tmp_path / f"{name}.png")
    settings = featup.Upsampling(BackboneConfig(VIT, random_weights=True, model_args=SHORT), "bilinear", resize=64)
    records = list(featup.upsample_many([tmp_path], tmp_path / "out", settings=settings, batch=2))
    assert [record.status for record in records] == ["done", "done"]
    for name in ("a", "b"):
        alone = featup.upsample(tmp_path / f"{name}.png", backbone=settings.backbone, method="bilinear", resize=64)
        stored = featup.load_features(tmp_path / "out" / f"{name}.safetensors").class_token
        torch.testing.assert_close(stored, alone.class_token)
    # As a version without class tokens wrote it: the request doesn't speak of them.
    older = tmp_path / "out" / "a.safetensors"
    file = featup.load_features(older)
    save_features(older, file.features, provenance=read_provenance(older), lr_features=file.lr_features)
    assert "class_token" not in read_header(older).tensors
    records = list(featup.upsample_many([tmp_path], tmp_path / "out", settings=settings, batch=2))
    assert [record.status for record in records] == ["skipped", "skipped"]
