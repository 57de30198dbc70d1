"""The estimate of a network's memory: known networks, and that nothing is computed."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.footprint import TYPICAL_BYTES, estimate_bytes, peak_bytes
from featup_cli.backbones.registry import load_backbone


def test_layers_hold_input_and_output_at_once() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3, padding=1))
    pixels = 2 * 100 * 60
    # The caller keeps the picture; the hidden map is there while the last one is made.
    assert peak_bytes(network, (2, 3, 100, 60)) == 4 * pixels * (3 + 8 + 4)


def test_views_cost_nothing_and_what_is_dropped_is_given_back() -> None:
    def network(images: Tensor) -> Tensor:
        maps = images.expand(-1, -1, -1, -1).flatten(2)
        for _ in range(5):
            maps = maps + 1
        return maps

    assert peak_bytes(network, (1, 3, 10, 10)) == 4 * 3 * 100 * 3


def test_fused_attention_has_no_matrix() -> None:
    def network(images: Tensor) -> Tensor:
        tokens = images.flatten(2).mT[:, None]
        return F.scaled_dot_product_attention(tokens, tokens, tokens)

    def plain(images: Tensor) -> Tensor:
        tokens = images.flatten(2).mT
        return (tokens @ tokens.mT).softmax(2) @ tokens

    fused, matrix = peak_bytes(network, (1, 3, 40, 40)), peak_bytes(plain, (1, 3, 40, 40))
    assert fused == 2 * 4 * 3 * 1600
    assert matrix is not None
    assert matrix > 2 * 4 * 1600**2


def test_a_network_that_looks_at_its_numbers_has_no_exact_estimate() -> None:
    def network(images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images

    assert peak_bytes(network, (1, 3, 9000, 9000)) is None
    assert estimate_bytes(network, (1, 3, 9000, 9000), room=1) == TYPICAL_BYTES * 81_000_000


def test_known_backbones_cost_what_was_measured() -> None:
    # Growth of the resident set at 1024x1024 on a CPU: 267 MB and 112 MB (allocators had 50 MB at hand); at 224 the
    # networks still run.
    for name, measured in (("mobilenetv2_100", 267e6), ("vit_tiny_patch16_224", 90e6)):
        backbone = load_backbone(BackboneConfig(name, random_weights=True))
        estimate = estimate_bytes(backbone.network, (1, 3, 1024, 1024), room=0)
        assert 0.7 * measured < estimate < 1.6 * measured + 50e6  # scratch, most of which these had at hand
        assert backbone(torch.rand(1, 3, 224, 224)).isfinite().all()


def test_where_there_is_room_nothing_is_traced() -> None:
    def network(images: Tensor) -> Tensor:
        raise AssertionError("traced")

    assert estimate_bytes(network, (1, 3, 224, 224), room=10**9) == TYPICAL_BYTES * 224 * 224


def test_the_model_is_as_before_a_trace() -> None:
    model = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model.forward_features(image)
        assert peak_bytes(model.forward_features, (1, 3, 512, 512))
        assert torch.equal(model.forward_features(image), before)
