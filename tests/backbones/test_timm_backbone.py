"""Features of real architectures, with untrained weights."""

from __future__ import annotations

import json
import logging

import pytest
import timm
import torch

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.errors import ShapeError, UsageError

VIT = "vit_tiny_patch16_224"


def untrained(name: str, **options) -> Backbone:
    return load_backbone(BackboneConfig(name=name, random_weights=True, **options))


def images(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def normalised(backbone: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1)


@pytest.mark.parametrize(
    ("name", "channels", "stride", "layers", "norm_applied"),
    [
        (VIT, 192, 16, 12, True),
        ("vit_small_patch16_dinov3", 384, 16, 12, True),  # registers and rotary positions
        ("eva02_tiny_patch14_224", 192, 14, 12, False),  # its norm comes after pooling
        ("swin_tiny_patch4_window7_224", 768, 32, 4, True),
        ("resnet10t", 512, 32, 5, False),
        ("convnext_atto", 320, 32, 4, False),
        ("mobilenetv2_100", 320, 32, 5, False),
        ("densenet121", 1024, 32, 5, False),  # has no forward_intermediates in older releases of timm
    ],
)
def test_grid_is_exact_for_any_multiple(name, channels, stride, layers, norm_applied):
    backbone = untrained(name)
    assert (backbone.channels, backbone.stride, backbone.patch_multiple) == (channels, stride, stride)
    assert (backbone.layer, backbone.norm_applied, backbone.fixed_size) == (layers - 1, norm_applied, None)
    assert all(side % backbone.patch_multiple == 0 for side in backbone.native_size)
    for rows, columns in [(2, 5), (3, 2)]:
        features = backbone(images(rows * stride, columns * stride, 2))
        assert features.shape == (2, channels, rows, columns)
        assert features.dtype == torch.float32
        assert features.is_contiguous()


@pytest.mark.parametrize(("layer", "norm"), [(None, True), (-1, False), (4, True), (-8, False)])
def test_vit_features_are_the_patch_tokens_of_the_block(layer, norm):
    backbone = untrained(VIT, layer=layer, norm=norm)
    pixels = images(224, 224)
    torch.manual_seed(0)
    model = timm.create_model(VIT).eval()
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(normalised(backbone, pixels)))
        for block in model.blocks[: backbone.layer + 1]:
            tokens = block(tokens)
        tokens = model.norm(tokens) if norm else tokens
    expected = tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    assert backbone.norm_applied is norm
    torch.testing.assert_close(backbone(pixels), expected, rtol=1e-4, atol=1e-4)


def test_stages_of_a_hierarchical_network_have_their_own_stride():
    strides = {layer: untrained("resnet10t", layer=layer).stride for layer in (0, 1, 2, -1)}
    assert strides == {0: 2, 1: 4, 2: 8, -1: 32}


def test_the_neck_of_sam_is_for_its_last_block_only():
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": (1,)}
    last, early = (untrained("samvit_base_patch16", layer=layer, model_args=small) for layer in (None, 0))
    assert (last.channels, last.norm_applied, last.native_size) == (256, True, (1024, 1024))
    assert (early.channels, early.norm_applied) == (32, False)
    assert early(images(64, 96)).shape == (1, 32, 4, 6)


def test_a_model_that_refuses_to_norm_features_gives_raw_ones():
    backbone = untrained("hiera_tiny_224", layer=0)
    assert not backbone.norm_applied
    assert backbone.fixed_size == (224, 224)


def test_a_model_of_one_size_says_so():
    backbone = untrained("levit_128s")
    assert backbone.fixed_size == backbone.native_size == (224, 224)
    assert backbone(images(224, 224)).shape[2:] == (224 // backbone.stride, 224 // backbone.stride)
    with pytest.raises(ShapeError, match="takes 224x224 pixels"):
        backbone(images(256, 256))


def test_a_model_without_forward_intermediates_is_read_by_features_only(monkeypatch):
    direct = untrained("resnet10t", layer=3)
    monkeypatch.delattr(timm.models.resnet.ResNet, "forward_intermediates")
    fallback = untrained("resnet10t", layer=3)
    pixels = images(64, 96)
    assert fallback.weights_sha256 == direct.weights_sha256
    torch.testing.assert_close(fallback(pixels), direct(pixels))


def test_a_model_that_gives_no_grid_is_refused():
    with pytest.raises(UsageError, match="can't be used as a backbone"):
        untrained("inception_v3")


@pytest.mark.parametrize("layer", [12, -13])
def test_a_layer_out_of_range_names_the_range(layer):
    with pytest.raises(UsageError, match=r"0 to 11 \(or -12 to -1\)"):
        untrained(VIT, layer=layer)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dinov22", "dinov2"),
        ("resnet_50", "resnet50"),
        ("vit_small_patch16_224.dinoo", "vit_small_patch16_224.dino"),
        ("timm/some_model", "hf-hub:timm/some_model"),
        ("https://example.com/x", "hf-hub:OWNER/NAME"),
        ("no such thing at all", "unknown backbone"),
    ],
)
def test_an_unknown_name_gets_a_hint(name, hint):
    with pytest.raises(UsageError) as caught:
        load_backbone(BackboneConfig(name=name))
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.rand(1, 3, 60, 64), "multiples of 16"),
        (torch.rand(1, 4, 64, 64), "B, 3, H, W"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "uint8"),
        (torch.rand(0, 3, 64, 64), "B, 3, H, W"),
    ],
)
def test_wrong_shapes_are_refused(pixels, message):
    with pytest.raises(ShapeError, match=message):
        untrained(VIT, model_args={"depth": 1})(pixels)


def test_model_args_reach_the_model():
    backbone = untrained(VIT, model_args={"depth": 2, "patch_size": 8, "mean": 0, "std": (0.5, 0.5, 0.25)})
    assert (backbone.layer, backbone.stride) == (1, 8)
    assert (backbone.mean, backbone.std) == ((0, 0, 0), (0.5, 0.5, 0.25))


@pytest.mark.parametrize(
    "arguments",
    [{"no_such": 1}, {"patch_size": "x"}, {"mean": (1, 2)}, {"std": 0}, {"mean": "x"}, {"pretrained": True}],
)
def test_model_args_that_do_not_fit_are_refused(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        untrained("resnet10t" if "patch_size" not in arguments else VIT, model_args=arguments)


def test_random_weights_are_repeatable_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (untrained("resnet10t") for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert first.weights_source == "random"
    assert first.weights_sha256 == second.weights_sha256
    pixels = images(64, 64)
    assert torch.equal(first(pixels), second(pixels))


def test_features_can_be_used_in_autograd():
    features = untrained("resnet10t")(images(64, 64).requires_grad_())
    assert not features.requires_grad
    scale = torch.ones((), requires_grad=True)
    (features * scale).sum().backward()
    assert scale.grad is not None


def test_the_description_is_json():
    facts = json.loads(json.dumps(untrained(VIT).describe()))
    assert facts["resolved"].startswith(f"{VIT}.")
    assert facts["weights_source"] == "random"
    assert (facts["layer"], facts["layers"], facts["norm_applied"]) == (11, 12, True)
    assert facts["precision"] == "float32"
    assert len(facts["weights_sha256"]) == 64


def test_loading_is_quiet(caplog):
    with caplog.at_level(logging.WARNING):
        untrained(VIT)
    assert not caplog.records


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_half_precision_on_a_gpu_is_close_to_float32():
    config = BackboneConfig(name=VIT, random_weights=True)
    on_gpu, on_cpu = load_backbone(config, "cuda"), load_backbone(config)
    features, expected = on_gpu(images(64, 96)), on_cpu(images(64, 96))
    assert on_gpu.describe()["precision"] in ("float16", "bfloat16")
    assert features.dtype == torch.float32
    assert features.device.type == "cuda"
    assert ((features.cpu() - expected).norm() / expected.norm()) < 1e-2
