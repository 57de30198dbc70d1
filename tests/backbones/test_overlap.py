"""Vision transformers with a smaller patch stride."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.errors import UsageError

VIT = "vit_tiny_patch16_224"


def untrained(name: str = VIT, **model_args: object) -> Backbone:
    return load_backbone(BackboneConfig(name, random_weights=True, model_args=model_args))


def vit_of_single_patches(folder: Path, **model_args: object) -> Backbone:
    """A ViT whose tokens depend on their own patch alone: no attention, no positions."""
    model = timm.create_model(VIT, depth=1, **model_args)
    state = model.state_dict()
    for name in ("pos_embed", "blocks.0.attn.proj.weight", "blocks.0.attn.proj.bias"):
        state[name] = torch.zeros_like(state[name])
    save_file(state, folder / "vit.safetensors")
    config = BackboneConfig(VIT, weights=folder / "vit.safetensors", model_args={"depth": 1, **model_args})
    return load_backbone(config)


def test_an_odd_factor_keeps_the_tokens_of_the_original_patches(tmp_path: Path) -> None:
    backbone, image = vit_of_single_patches(tmp_path, patch_size=12, img_size=216), torch.rand(2, 3, 48, 60)
    dense = backbone.with_stride(4)(image)
    assert dense.shape == (2, 192, 12, 15)
    torch.testing.assert_close(dense[:, :, 1::3, 1::3], backbone(image))


def test_an_even_factor_gives_patches_centred_on_their_cells(tmp_path: Path) -> None:
    backbone, image = vit_of_single_patches(tmp_path), torch.rand(1, 3, 64, 80)
    dense = backbone.with_stride(8)(image)
    assert dense.shape == (1, 192, 8, 10)
    # Cell i is centred on pixel 8 i + 4, and so is the patch that begins at 8 i - 4.
    torch.testing.assert_close(dense[:, :, 1:-1:2, 1:-1:2], backbone(image[:, :, 4:52, 4:68]))


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        (VIT, 4),
        ("vit_small_patch16_dinov3", 8),  # registers and rotary positions
        ("eva02_tiny_patch14_224", 7),
        ("vit_small_patch14_reg4_dinov2", 4),
    ],
)
def test_families_of_vision_transformers_give_the_denser_grid(name: str, stride: int) -> None:
    backbone = untrained(name, depth=1, **({"img_size": 224} if "dinov2" in name else {}))
    digest = backbone.weights_sha256
    dense = backbone.with_stride(stride)
    image = torch.rand(1, 3, 56, 112)
    assert dense(image).shape == (1, backbone.channels, 56 // stride, 112 // stride)
    assert (dense.stride, dense.patch_multiple, dense.weights_sha256) == (stride, stride, digest)
    assert all(side % stride == 0 for side in dense.native_size)
    assert backbone(image[:, :, : 2 * backbone.stride, : 3 * backbone.stride]).shape[2:] == (2, 3)


def test_the_same_stride_is_the_same_backbone() -> None:
    backbone = untrained(depth=1)
    assert backbone.with_stride(16) is backbone
    assert backbone.attention_heads == 3


@pytest.mark.parametrize("name", ["tiny", "resnet10t", "swin_tiny_patch4_window7_224"])
def test_networks_without_patches_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="can't take a smaller patch stride"):
        untrained(name).with_stride(2)


@pytest.mark.parametrize("stride", [0, 17])
def test_impossible_strides_are_refused(stride: int) -> None:
    with pytest.raises(UsageError, match=f"patch stride {stride}"):
        untrained(depth=1).with_stride(stride)
