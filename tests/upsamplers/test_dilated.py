"""Dilated: the backbone with dilations instead of its last strides."""

from __future__ import annotations

import pytest
import torch

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.errors import UsageError
from featup_cli.engine.pipeline import upsample
from featup_cli.upsamplers.denser.upsampler import DilatedUpsampler

SIZE = (64, 96)


def load(name: str, **settings: object) -> Backbone:
    return load_backbone(BackboneConfig(name, random_weights=True, **settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def resnet() -> Backbone:
    return load("resnet18")


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035"])
def test_every_second_or_fourth_token_is_the_backbones_own(name: str, factor: int) -> None:
    backbone, image = load(name), torch.rand(1, 3, *SIZE)
    lr_feats = backbone(image)
    tokens = DilatedUpsampler(backbone, SIZE, factor).tokens(image, lr_feats, SIZE)
    assert tokens.shape[2:] == (lr_feats.shape[2] * factor, lr_feats.shape[3] * factor)
    torch.testing.assert_close(tokens[:, :, ::factor, ::factor], lr_feats, atol=1e-4, rtol=1e-4)
    assert tokens[:, :, 1::factor].std() > 0


def test_an_inner_stage_is_dilated_too() -> None:
    backbone, image = load("resnet18", layer=-2), torch.rand(1, 3, *SIZE)
    assert backbone.stride == 16
    lr_feats = backbone(image)
    upsampler = DilatedUpsampler(backbone, SIZE)
    tokens = upsampler.tokens(image, lr_feats, SIZE)
    assert tokens.shape[2:] == (8, 12)
    torch.testing.assert_close(tokens[:, :, ::2, ::2], lr_feats, atol=1e-4, rtol=1e-4)


def test_the_twin_shares_the_weights_and_leaves_the_backbone_as_it_was(resnet: Backbone) -> None:
    image = torch.rand(1, 3, *SIZE)
    before = resnet(image)
    dilated = resnet.with_output_stride(8)
    assert (dilated.stride, dilated.patch_multiple, dilated.weights_sha256) == (8, 32, resnet.weights_sha256)
    assert dilated(image).shape[2:] == (8, 12)
    assert torch.equal(resnet(image), before)
    assert resnet.with_output_stride(32) is resnet


@pytest.mark.parametrize("output", [(64, 96), (37, 131), (2, 3)])
def test_any_output_size_is_met_exactly(output: tuple[int, int], resnet: Backbone) -> None:
    image = torch.rand(2, 3, *SIZE)
    upsampler, lr_feats = DilatedUpsampler(resnet, SIZE), resnet(image)
    out = upsampler(image, lr_feats, output)
    assert out.shape == (*lr_feats.shape[:2], *output)
    bands = torch.cat(list(upsampler.bands(image, lr_feats, output, 5)), 2)
    torch.testing.assert_close(bands, out, atol=1e-4, rtol=1e-4)
    estimates = [upsampler.band_bytes(lr_feats.shape, output, rows) for rows in (1, 2, 40)]
    assert 4 * out.numel() < estimates[-1]
    assert estimates == sorted(estimates)


@pytest.mark.parametrize(("output", "factor"), [((2, 3), 1), ((4, 6), 2), ((20, 24), 4), ((64, 96), 4)])
def test_the_factor_follows_the_output(output: tuple[int, int], factor: int, resnet: Backbone) -> None:
    image = torch.rand(1, 3, *SIZE)
    upsampler = DilatedUpsampler(resnet, SIZE)
    upsampler(image, resnet(image), output)
    assert upsampler.details.scores == {"factor": factor, "tokens": 6 * factor**2}


def test_the_command_line_and_python_run_it() -> None:
    backbone = load("resnet18")
    result = upsample(torch.rand(3, 64, 64), backbone=backbone, method="dilated", resize="64", output_size="32x32")
    assert result.features.shape == (backbone.channels, 32, 32)


def test_backbones_that_cannot_are_refused_in_a_line(resnet: Backbone) -> None:
    tiny = load_backbone(BackboneConfig("tiny", random_weights=True))
    for backbone in (tiny, load("test_vit"), load("resnet18", layer=1)):
        with pytest.raises(UsageError, match=r"dilated needs a convolutional network .*; large-image takes it"):
            DilatedUpsampler(backbone, SIZE)
    with pytest.raises(UsageError, match="3x is impossible; choose a power of two up to 4"):
        DilatedUpsampler(resnet, SIZE, factor=3)
    for backbone, stride in ((tiny, 8), (resnet, 5), (load("vgg11"), 16)):
        with pytest.raises(UsageError, match=f"can't have an output stride of {stride}"):
            backbone.with_output_stride(stride)


def test_a_form_with_other_features_is_not_taken() -> None:
    """timm pads ConvNeXt's 2x2 convolutions on both sides where they are dilated, which moves what they see."""
    backbone, image = load("test_convnext"), torch.rand(1, 3, *SIZE)
    with pytest.raises(UsageError, match="can't have an output stride of 8"):
        backbone.with_output_stride(8)
    upsampler = DilatedUpsampler(backbone, SIZE)
    tokens = upsampler.tokens(image, backbone(image), SIZE)
    assert upsampler.details.scores["factor"] == 2
    torch.testing.assert_close(tokens[:, :, ::2, ::2], backbone(image), atol=1e-4, rtol=1e-4)
