"""Classifiers whose head is linear on pooled features, found by trial."""

from __future__ import annotations

import pytest
import torch

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.backbones.timm.classifier import Classifier, load_classifier
from featup_cli.core.errors import UsageError, WeightsError

CPU = torch.device("cpu")


def load(name: str, **options: object) -> Classifier:
    return load_classifier(BackboneConfig(name, random_weights=True, **options), CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "pooling", "channels", "stride"),
    [("test_efficientnet", "mean", 256, 32), ("test_resnet", "mean", 96, 32), ("test_vit", "class token", 64, 16)],
)
def test_the_features_are_those_that_the_head_reads(name: str, pooling: str, channels: int, stride: int) -> None:
    classifier = load(name)
    assert (classifier.pooling, classifier.backbone.channels, classifier.backbone.stride) == (pooling, channels, stride)
    image = torch.rand(1, 3, 160, 192)
    features = classifier.backbone(image)
    assert features.shape == (1, channels, 160 // stride, 192 // stride)
    probabilities = classifier.probabilities(image)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, dtype=torch.float64))
    if pooling == "mean":
        # The mean of the map of every class is its logit, up to the bias.
        bias = classifier.network.get_classifier().bias  # type: ignore[attr-defined]
        logits = features.mean((2, 3)) @ classifier.weight.T + bias
        torch.testing.assert_close(logits.double().softmax(1), probabilities, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("stride", [16, 8])
def test_features_of_a_transformer_are_those_of_its_last_block_at_any_patch_stride(stride: int) -> None:
    image = torch.rand(1, 3, 160, 160)
    last_block = load_backbone(BackboneConfig("test_vit", random_weights=True)).with_stride(stride)
    features = load("test_vit").backbone.with_stride(stride)(image)
    assert features.shape == (1, 64, 160 // stride, 160 // stride)
    torch.testing.assert_close(features, last_block(image))


@pytest.mark.parametrize("name", ["tiny", "test_convnext", "dino"])
def test_networks_without_such_a_head_are_refused_with_those_that_have_one(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}.*mobilenetv2, resnet50"):
        load(name)


def test_an_untrained_head_is_never_taken_for_a_trained_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    state = {k: v for k, v in load("test_resnet").network.state_dict().items() if not k.startswith("fc.")}  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "headless.pt")
    with pytest.raises(WeightsError, match=r"missing fc\.weight"):
        load_classifier(BackboneConfig("test_resnet", weights=tmp_path / "headless.pt"), CPU)
    with pytest.raises(UsageError, match="num_classes"):
        load_classifier(BackboneConfig("test_resnet", model_args={"num_classes": 7}), CPU)
