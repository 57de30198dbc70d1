"""Where weights come from, what is done when they are unavailable, and that files are read safely."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants as hub_constants
from safetensors.torch import load_file, save_file

from featup_cli.backbones import hub, weights
from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.backbones.tiny.network import TinyNet
from featup_cli.core.errors import UsageError, WeightsError

NET = "vit_tiny_patch16_224"
SMALL = {"depth": 2}
SHARED = Path(__file__).parents[3] / "shared" / "weights" / "mobilenetv2_100.tflite_in1k.safetensors"


def load(path: Path | None, name: str = NET, **options) -> Backbone:
    options.setdefault("model_args", SMALL if name == NET else {})
    return load_backbone(BackboneConfig(name=name, weights=path, **options))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(7)
    return timm.create_model(NET, dynamic_img_size=True, **SMALL).eval()


@pytest.fixture
def expect_features(model):
    def check(backbone: Backbone) -> None:
        pixels = torch.rand(1, 3, 64, 96)
        with torch.no_grad():
            expected = model.forward_intermediates((pixels - 0.5) / 0.5, indices=1, norm=True, intermediates_only=True)
        torch.testing.assert_close(backbone(pixels), expected[0])

    return check


def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.get_session", refuse)


def test_safetensors(model, tmp_path, expect_features, monkeypatch):
    no_network(monkeypatch)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    backbone = load(tmp_path / "net.safetensors")
    expect_features(backbone)
    assert backbone.weights_source == f"file:{tmp_path / 'net.safetensors'}"
    assert backbone.weights_sha256 == weights.digest(model.state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {
            "student": {},
            "teacher": {
                **{f"module.backbone.{name}": value for name, value in state.items()},
                "module.head.mlp.weight": torch.ones(1),
            },
        },
        lambda state: {"state_dict": {**{f"model.{k}": v for k, v in state.items()}, "loss.weight": torch.ones(1)}},
    ],
    ids=["plain", "nested", "distributed", "teacher", "lightning"],
)
def test_torch_checkpoints_of_training_codes(wrap, model, tmp_path, expect_features):
    torch.save(wrap(model.state_dict()), tmp_path / "net.pt")
    expect_features(load(tmp_path / "net.pt"))


def test_a_checkpoint_of_another_image_size_and_classifier_fits(model, tmp_path):
    state = dict(timm.create_model(NET, img_size=64, num_classes=5, **SMALL).state_dict())
    torch.save(state, tmp_path / "net.pt")
    backbone = load(tmp_path / "net.pt")
    assert backbone(torch.rand(1, 3, 64, 64)).shape == (1, 192, 4, 4)
    del state["head.weight"], state["head.bias"]
    torch.save(state, tmp_path / "headless.pt")
    load(tmp_path / "headless.pt")


@pytest.mark.parametrize(
    ("name", "model_args", "part"),
    [
        ("resnet10t", {}, "missing conv1"),
        ("convnext_atto", {}, "don't fit convnext_atto"),
        (NET, {"depth": 3}, "missing blocks.2"),
        (NET, {"depth": 1}, "unexpected blocks.1"),
        (NET, {"depth": 2, "embed_dim": 96}, "shape"),
        (NET, {"depth": 2, "patch_size": 16, "reg_tokens": 4}, "reg_token"),
    ],
)
def test_weights_of_another_network_are_refused(name, model_args, part, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "net.pt")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "net.pt", name, model_args=model_args)
    assert str(tmp_path / "net.pt") in str(caught.value)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


STORED = {
    "metadata": lambda state, path: save_file(state, path, {"architecture": "resnet50", "timm_kwargs": '{"depth": 3}'}),
    "no metadata": save_file,
    "checkpoint": lambda state, path: torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path),
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", ["dino", "convnext_atto", "resnet26", "tiny"])
def test_a_known_network_that_weights_are_of_is_named(stored, name, tmp_path):
    path = tmp_path / "net.weights"
    STORED[stored](timm.create_model("resnet50").state_dict(), path)
    with pytest.raises(WeightsError) as caught:
        load(path, name)
    assert str(caught.value) == f"{path}: holds weights of resnet50, not of {name}; give --backbone resnet50"


def test_weights_of_tiny_and_other_files_of_ours_are_named(tmp_path):
    save_file(TinyNet().state_dict(), tmp_path / "t.safetensors")
    with pytest.raises(WeightsError, match="holds weights of tiny, not of dino; give --backbone tiny"):
        load(tmp_path / "t.safetensors", "dino")
    packaged = Path(weights.__file__).parents[1] / "weights"
    with pytest.raises(WeightsError, match="holds upsampler weights, not weights of a backbone; give it with --upsam"):
        load(packaged / "jbu.safetensors", "dino")


def test_what_a_file_asks_for_is_told_from_what_was_typed(model, tmp_path):
    path = tmp_path / "net.safetensors"
    for metadata, said in [
        ({"timm_kwargs": '{"wrong": 1}'}, rf"does not accept .*wrong=1.*; wrong: from the metadata of {path}"),
        ({"timm_kwargs": '{"features_only": true}'}, f"{path}: features_only in its metadata can't be set"),
        ({"std": "[0, 1, 1]"}, f"{path}: std in its metadata must be one or three positive numbers"),
    ]:
        save_file(model.state_dict(), path, {"architecture": NET, **metadata})
        with pytest.raises(UsageError, match=said):
            load(path)
    with pytest.raises(UsageError, match=r"^--backbone-arg std must be"):
        load(path, model_args={**SMALL, "std": 0})


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_run(name, zipped, tmp_path):
    marker = tmp_path / "executed"
    torch.save({"state_dict": Malicious(marker)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="never run"):
        load(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04broken", b"\x10\0\0\0\0\0\0\0{broken", b"\x80\x04."])
@pytest.mark.parametrize("backbone", [NET, "tiny"])
def test_a_file_that_is_no_weights_file_is_refused(content, backbone, tmp_path):
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "net.pt", backbone)
    assert "net.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_empty_of_tensors_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pt"):
        load(tmp_path / "nowhere.pt")
    with pytest.raises(WeightsError, match="is a folder"):
        load(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(WeightsError, match="no tensors"):
        load(tmp_path / "empty.pt")


def test_metadata_of_a_file_sets_normalisation_and_arguments(tmp_path):
    state = timm.create_model(NET, **SMALL).state_dict()
    metadata = {"mean": "[0.1, 0.2, 0.3]", "std": "0.5", "timm_kwargs": json.dumps(SMALL)}
    save_file(state, tmp_path / "net.safetensors", metadata)
    backbone = load(tmp_path / "net.safetensors", model_args={"std": 0.25})
    assert backbone.mean == (0.1, 0.2, 0.3)
    assert backbone.std == (0.25, 0.25, 0.25)
    for key, value in [("mean", "0.5,0.5"), ("timm_kwargs", "[1]")]:
        save_file(state, tmp_path / "net.safetensors", {**metadata, key: value})
        with pytest.raises(WeightsError, match=r"net\.safetensors"):
            load(tmp_path / "net.safetensors")


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared MobileNetV2 weights are not here")
def test_the_shared_mobilenet_file_is_right_by_itself():
    state = load_file(SHARED)
    reference = timm.create_model("mobilenetv2_100", pad_type="same").eval()
    reference.load_state_dict(state, strict=True)
    backbone = load(SHARED, "mobilenetv2")
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    pixels = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        expected = reference.forward_intermediates((pixels - 0.5) / 0.5, indices=1, intermediates_only=True)
    torch.testing.assert_close(backbone(pixels), expected[0])


def test_a_local_folder(model, tmp_path, expect_features, monkeypatch):
    no_network(monkeypatch)
    config = {"architecture": NET, "model_args": SMALL, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps({"num_classes": 1000, **config}))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    backbone = load(None, f"local-dir:{tmp_path}")
    expect_features(backbone)
    assert backbone.resolved == backbone.weights_source == f"local-dir:{tmp_path}"
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="no weights for local-dir:"):
        load(None, f"local-dir:{tmp_path}")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load(None, f"local-dir:{tmp_path / 'nowhere'}")


def test_cached_weights_are_used_offline(model, tmp_path, expect_features, monkeypatch):
    no_network(monkeypatch)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / f"models--timm--{NET}.augreg_in21k_ft_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(model.state_dict(), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    backbone = load(None, offline=True)
    expect_features(backbone)
    assert backbone.weights_source == f"hf-hub:timm/{NET}.augreg_in21k_ft_in1k"
    assert not hub_constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("offline", [True, False])
def test_weights_that_cannot_be_had_name_the_ways_out(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_hub_answers", lambda: False)
    for name in ("dino", "hf-hub:someone/net"):
        start = time.monotonic()
        with pytest.raises(WeightsError) as caught:
            load_backbone(BackboneConfig(name=name, offline=offline))
        assert time.monotonic() - start < 15
        message = str(caught.value)
        for part in ("hf-hub:", "connect once", "--weights FILE", "--random-weights", "--backbone tiny"):
            assert part in message
        assert "\n" not in message


def test_a_network_without_published_weights_says_so(monkeypatch):
    monkeypatch.setattr(hub, "_hub_answers", lambda: True)
    with pytest.raises(WeightsError, match="none are published"):
        load_backbone(BackboneConfig(name="skresnet50"))


def test_weights_and_random_weights_exclude_each_other(tmp_path):
    with pytest.raises(UsageError, match="exclude"):
        load(tmp_path / "net.pt", random_weights=True)


def test_tiny_with_weights_of_a_file_or_random(tmp_path):
    random = load(None, "tiny", random_weights=True)
    assert random.weights_source == "random"
    torch.manual_seed(3)
    network = TinyNet().eval()
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    backbone = load(tmp_path / "tiny.safetensors", "tiny")
    pixels = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(backbone(pixels), network(pixels))
    assert backbone(pixels).shape == (1, backbone.channels, 2, 3)
    assert random.weights_sha256 != backbone.weights_sha256 == weights.digest(network.state_dict())
    json.dumps(backbone.describe())
    headless = {name: value for name, value in network.state_dict().items() if not name.startswith("head")}
    save_file(headless, tmp_path / "tiny.safetensors")
    with pytest.raises(WeightsError, match=r"missing head\.weight"):
        load(tmp_path / "tiny.safetensors", "tiny")


def test_tiny_takes_no_other_layer_or_arguments():
    for options in ({"layer": 1}, {"model_args": {"depth": 1}}):
        with pytest.raises(UsageError, match="tiny"):
            load_backbone(BackboneConfig(random_weights=True, **options))


def test_tiny_is_packaged():
    packaged = Path(weights.__file__).parents[1] / "weights" / "tiny.safetensors"
    if not packaged.is_file():
        pytest.skip("the packaged weights are not trained yet")
    backbone = load_backbone(BackboneConfig())
    assert (backbone.resolved, backbone.weights_source) == ("tiny", "packaged")
    assert backbone(torch.rand(2, 3, 48, 32)).shape == (2, backbone.channels, 3, 2)
