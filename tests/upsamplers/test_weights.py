"""Files of upsamplers, checkpoints of others, and which weights serve which backbone."""

from __future__ import annotations

import io
import json
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import featup_cli as featup
from featup_cli.backbones.api import Backbone
from featup_cli.core.errors import OutputError, ShapeError, UsageError, WeightsError
from featup_cli.upsamplers.api import is_linear
from featup_cli.upsamplers.attached import PretrainedUpsampler
from featup_cli.upsamplers.jbu.released import ReleasedJBU
from featup_cli.upsamplers.jbu.releases import RELEASES
from featup_cli.upsamplers.registry import make_upsampler
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.upsampler import ReSFU
from featup_cli.upsamplers.weights import find, releases
from featup_cli.upsamplers.weights.file import build_upsampler, load_upsampler, read_metadata, save_upsampler
from featup_cli.upsamplers.weights.identity import backbone_identity
from featup_cli.upsamplers.weights.imported import read_checkpoint
from featup_cli.upsamplers.weights.normed import NormedUpsampler
from featup_cli.upsamplers.weights.releases import fetch

SMALL_RESFU = {"projection": 8, "hidden": 16, "guidance_channels": 8, "filter_radius": 2}
CONFIGS = [
    ("jbu", {}),
    ("jbu", {"radius": 2, "key_size": 5, "stages": 2, "shared": False, "sharpen_lr": 0.7, "contrast": 0.2}),
    ("jbu", {"mlp": False, "range_kernel": "euclidean"}),
    ("jbu-released", {"channels": 6, "norm": False}),
    ("jbu-released", {"channels": 6, "norm": True}),
    ("resfu", {"channels": 6, **SMALL_RESFU}),
    ("resfu", {"channels": None, "key": "components", **SMALL_RESFU}),
    ("resfu", {"channels": 6, "similarity": "inner_product", "scores": "detail", "neighbors": "coarse"}),
]
ABOUT = {"backbone": "any", "provenance": {"made": "in a test"}, "card": "Random numbers."}
IMAGE = torch.rand(1, 3, 64, 80)


def randomised(module: nn.Module) -> nn.Module:
    """The module with parameters unlike those that any constructor gives."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def write(path: Path, method: str, config: dict[str, Any], **about: Any) -> Path:
    save_upsampler(path, randomised(build_upsampler(method, config)), ABOUT | about)
    return path


@pytest.fixture
def tiny() -> Backbone:
    return featup.load_backbone(featup.BackboneConfig(random_weights=True))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the package's own weights."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(find, "SHIPPED", folder)
    return folder


@pytest.mark.parametrize(("method", "config"), CONFIGS)
def test_a_file_reads_back_as_the_same_upsampler(method: str, config: dict[str, Any], tmp_path: Path) -> None:
    saved = randomised(build_upsampler(method, config)).train()
    path = tmp_path / "new" / "up.safetensors"
    save_upsampler(path, saved, ABOUT | {"backbone": {"name": "tiny", "channels": 6}})
    loaded, metadata = load_upsampler(str(path))
    assert not loaded.training
    assert read_metadata(path) == metadata
    assert metadata["method"] == method
    assert config.items() <= metadata["config"].items()
    assert metadata["backbone"] == {"name": "tiny", "channels": 6}
    assert (metadata["provenance"], metadata["card"]) == (ABOUT["provenance"], ABOUT["card"])
    feats = torch.randn(1, 6, 4, 5)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGE, feats, (31, 33)), saved.eval()(IMAGE, feats, (31, 33)))


def test_unknown_methods_and_settings_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="one of: jbu, jbu-released, resfu"):
        build_upsampler("anyup", {})
    for method, config in (("jbu", {"radios": 3}), ("resfu", {}), ("jbu", {"radius": "three"}), ("jbu", {"radius": 0})):
        with pytest.raises(UsageError, match=r"rad|channels"):
            build_upsampler(method, config)
    with pytest.raises(UsageError, match="provenance"):
        save_upsampler(Path("never.safetensors"), build_upsampler("jbu", {}), {"backbone": "any", "card": ""})
    with pytest.raises(UsageError, match="Conv2d"):
        save_upsampler(Path("never.safetensors"), nn.Conv2d(1, 1, 1), ABOUT)


def test_an_unwritable_file_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "blocker").touch()
    with pytest.raises(OutputError, match="blocker"):
        write(tmp_path / "blocker" / "up.safetensors", "jbu", {})
    assert [p.name for p in tmp_path.iterdir()] == ["blocker"]


def rewrite(path: Path, change: Any) -> Path:
    """Save a good file again after `change` of its tensors and metadata."""
    upsampler, metadata = load_upsampler(write(path, "jbu", {}))
    state = {name: value.clone() for name, value in upsampler.state_dict().items()}
    change(state, metadata)
    save_file(state, path, {"featup": json.dumps(metadata)})
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s, m: s.pop("stages.0.range_temp"), r"missing stages\.0\.range_temp"),
        (lambda s, m: s.update(extra=torch.ones(1)), "unexpected extra"),
        (lambda s, m: s.update({"stages.0.range_temp": torch.ones(2)}), r"another shape stages\.0\.range_temp"),
        (lambda s, m: s["stages.0.range_temp"].fill_(float("nan")), "NaN"),
        (lambda s, m: m.update(method="anyup"), "'anyup': update featup"),
        (lambda s, m: m.update(format="featup-upsampler-9"), "featup-upsampler-9.*update featup"),
        (lambda s, m: m.update(config={"radios": 3}), "another version"),
        (lambda s, m: m.update(config=None), "unknown method"),
        (lambda s, m: m.pop("backbone"), "which backbone"),
        (lambda s, m: m.clear(), "featup import-weights"),
    ],
)
def test_a_file_that_does_not_fit_itself_is_refused(change: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        load_upsampler(rewrite(tmp_path / "up.safetensors", change))
    assert "up.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_other_kinds_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "up.safetensors"
    for content, says in ((b"", "import-weights"), (b"\x80\x04.", "import-weights"), (b"text and more", "not a safe")):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=says):
            load_upsampler(path)
    write(path, "jbu", {})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(WeightsError, match="not a whole safetensors"):
        load_upsampler(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"no featup metadata.*import-weights"):
        load_upsampler(path)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="can't be read"):
            load_upsampler(missing)


# Checkpoints of others.


def official(channels: int = 6, normed: bool = True) -> tuple[ReleasedJBU, dict[str, Any]]:
    """A module with random weights, and a Lightning checkpoint of it with the official names."""
    module = randomised(ReleasedJBU(channels))
    state = {f"upsampler.{name}": value for name, value in module.state_dict().items()}
    state |= {"model.0.model.cls_token": torch.randn(1, 1, channels), "scale_net.net.weight": torch.randn(1, channels)}
    state |= {"downsampler.w": torch.randn(1, 1, 14, 14), "downsampler.attention.1.weight": torch.randn(1, channels)}
    if normed:
        state |= {"model.1.norm.weight": torch.rand(channels) + 0.5, "model.1.norm.bias": torch.randn(channels)}
    return module, {"epoch": 4, "pytorch-lightning_version": "1.9.0", "state_dict": state, "hparams_name": None}


@pytest.mark.parametrize("prefix", ["upsampler.", "", "module.upsampler."])
def test_featups_checkpoint_is_read_by_its_names(prefix: str, tmp_path: Path) -> None:
    module, checkpoint = official(normed=False)
    root = prefix.removesuffix("upsampler.")
    state = checkpoint["state_dict"]
    state = {n.replace("upsampler.", prefix) if n[0] == "u" else root + n: v for n, v in state.items()}
    torch.save(checkpoint | {"state_dict": state}, tmp_path / "up.ckpt")
    found = read_checkpoint(tmp_path / "up.ckpt")
    assert (found.kind, found.channels, found.normed, found.ignored) == ("jbu-released", 6, False, 4)
    assert found.parameters == sum(p.numel() for p in module.parameters())
    feats = torch.randn(1, 6, 4, 5)
    with torch.no_grad():
        assert torch.equal(found.upsampler(IMAGE, feats, (64, 80)), module(IMAGE, feats, (64, 80)))


def test_the_normed_variant_normalises_channels_first(tmp_path: Path) -> None:
    module, checkpoint = official()
    torch.save(checkpoint, tmp_path / "up.ckpt")
    found = read_checkpoint(tmp_path / "up.ckpt")
    assert found.normed
    assert found.ignored == 4
    feats = 3 * torch.randn(1, 6, 4, 5) + 1
    weight, bias = (checkpoint["state_dict"][f"model.1.norm.{name}"].view(1, 6, 1, 1) for name in ("weight", "bias"))
    normed = (feats - feats.mean(1, keepdim=True)) / (feats.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    with torch.no_grad():
        expected = module(IMAGE, normed * weight + bias, (64, 80))
        torch.testing.assert_close(found.upsampler(IMAGE, feats, (64, 80)), expected, atol=1e-5, rtol=1e-5)
    assert not read_checkpoint(tmp_path / "up.ckpt", normed=False).normed
    with pytest.raises(ShapeError, match=r"\[B, 6, h, w\]"):
        found.upsampler(IMAGE, feats[:, :5], (64, 80))


RESFU_CONFIGS = [
    ReSFUConfig(guidance="features", **SMALL_RESFU),
    ReSFUConfig(projection=8, hidden=16, groups=2, kernel_size=5, guidance_channels=3, guidance="features"),
    ReSFUConfig(scores="semantic", guidance="features", guided_query=False),
    ReSFUConfig(similarity="inner_product", guidance="features"),
    ReSFUConfig(**SMALL_RESFU),
    ReSFUConfig(**SMALL_RESFU, similarity="concat", compressed=24),
]


@pytest.mark.parametrize("config", RESFU_CONFIGS)
@pytest.mark.parametrize("prefix", ["", "decode_head.upsampler."])
def test_resfu_state_dicts_are_read_by_names_and_shapes(config: ReSFUConfig, prefix: str, tmp_path: Path) -> None:
    module = randomised(ReSFU(6, config))
    state = {prefix + name: value for name, value in module.state_dict().items()}
    if f"{prefix}GF.kernel" in state:
        state[f"{prefix}GF.kernel"] = torch.ones(config.projection, 1, 1, 2 * config.filter_radius + 1)
    for name in [name for name in state if name.endswith("scores.bias")]:
        state[name] = state[name][None, :, None, None]
    if prefix:
        state["backbone.cls_token"] = torch.ones(1, 1, 6)
    torch.save(state, tmp_path / "resfu.pth")
    found = read_checkpoint(tmp_path / "resfu.pth", "resfu")
    assert (found.kind, found.channels, found.normed) == ("resfu", 6, False)
    assert found.parameters == sum(p.numel() for p in module.parameters())
    guidance = torch.randn(1, config.guidance_channels if config.guidance == "features" else 3, 20, 20)
    feats = torch.randn(1, 6, 4, 5)
    with torch.no_grad():
        assert torch.equal(found.upsampler(guidance, feats, (20, 20)), module(guidance, feats, (20, 20)))


def break_checkpoint(kind: str, state: dict[str, Tensor]) -> None:
    if kind == "missing":
        del state["upsampler.up3.sigma_spatial"]
    elif kind == "unexpected":
        state["projector.weight"] = torch.ones(2)
    elif kind == "unexpected inside":
        state["upsampler.up5.range_temp"] = torch.ones(())
    elif kind == "wrong shape":
        state["upsampler.up2.range_proj.0.weight"] = torch.ones(16, 3, 1, 1)
    elif kind == "not finite":
        state["upsampler.fixup_proj.1.bias"] = torch.full((6,), float("inf"))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", r"missing up3\.sigma_spatial"),
        ("unexpected", r"no part of FeatUp's module: projector\.weight"),
        ("unexpected inside", r"unexpected up5\.range_temp"),
        ("wrong shape", r"another shape up2\.range_proj"),
        ("not finite", "NaN or infinite"),
    ],
)
def test_checkpoints_that_are_not_exactly_the_module_are_refused(kind: str, says: str, tmp_path: Path) -> None:
    _, checkpoint = official(normed=False)
    break_checkpoint(kind, checkpoint["state_dict"])
    torch.save(checkpoint, tmp_path / "up.ckpt")
    with pytest.raises(WeightsError, match=says) as caught:
        read_checkpoint(tmp_path / "up.ckpt")
    assert "up.ckpt" in str(caught.value)


def test_files_that_hold_no_upsampler_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"blocks.0.weight": torch.ones(1), "head.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"no jbu-released or resfu upsampler; its tensors are blocks\.0\.weight"):
        read_checkpoint(path)
    torch.save(ReSFU(6).state_dict(), path)
    with pytest.raises(WeightsError, match="no jbu-released upsampler"):
        read_checkpoint(path, "jbu-released")
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="no state dict"):
        read_checkpoint(path)
    torch.save(ReSFU(6).state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="no whole torch file"):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "nowhere.ckpt")


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_never_run(zipped: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "up.ckpt"
    _, checkpoint = official()
    torch.save(checkpoint | {"callbacks": Malicious(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="never done") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


# Which weights serve which backbone.


def test_auto_takes_the_packages_own_weights(shipped: Path, tiny: Backbone) -> None:
    write(shipped / "jbu.safetensors", "jbu", {})
    write(shipped / "resfu_tiny.safetensors", "resfu", {"channels": 96}, backbone=backbone_identity(tiny))
    lr_feats = tiny(IMAGE)
    for method, linear in (("jbu", True), ("resfu", False)):
        upsampler = make_upsampler(method, backbone=tiny)
        assert isinstance(upsampler, PretrainedUpsampler)
        hr_feats = upsampler(IMAGE, lr_feats, (50, 37))
        assert hr_feats.shape == (1, 96, 50, 37)
        assert not hr_feats.requires_grad
        assert not upsampler.module.training
        assert is_linear(upsampler) is linear
        assert upsampler.details.notes == []
        assert upsampler.provenance["source"].startswith(f"packaged:{method}")
        assert len(upsampler.provenance["sha256"]) == 64
        json.dumps(upsampler.provenance)
    assert make_upsampler("jbu")(IMAGE, lr_feats[:, :7], (64, 80)).shape == (1, 7, 64, 80)


def test_auto_prefers_weights_for_the_backbone_and_else_takes_those_for_any(shipped: Path, tiny: Backbone) -> None:
    write(shipped / "resfu.safetensors", "resfu", {"channels": 96})
    assert find.load_pretrained("resfu", backbone=tiny).provenance["file"] == "resfu.safetensors"
    write(shipped / "resfu_tiny.safetensors", "resfu", {"channels": 96}, backbone={"name": "tiny", "channels": 96})
    assert find.load_pretrained("resfu", backbone=tiny).provenance["file"] == "resfu_tiny.safetensors"
    other = replace(tiny, name="dino", resolved="vit_small_patch16_224.dino")
    assert find.load_pretrained("resfu", backbone=other).provenance["file"] == "resfu.safetensors"


def test_weights_with_a_name_are_listed_by_it_and_never_taken_unasked(shipped: Path) -> None:
    write(shipped / "jbu_paper.safetensors", "jbu", {"radius": 1})
    with pytest.raises(WeightsError, match="there are: none"):
        make_upsampler("jbu")
    assert make_upsampler("jbu", upsampler="paper").provenance["config"]["radius"] == 1
    assert [row["upsampler"] for row in find.describe_shipped() if row["where"] == "in the package"] == ["paper"]


def test_without_weights_the_error_says_what_exists_and_how_to_train(shipped: Path, tiny: Backbone) -> None:
    with pytest.raises(WeightsError, match="there are: none"):
        make_upsampler("jbu")
    write(shipped / "resfu_tiny.safetensors", "resfu", {"channels": 96}, backbone={"name": "tiny", "channels": 96})
    other = replace(tiny, name="dino", resolved="vit_small_patch16_224.dino")
    with pytest.raises(WeightsError) as caught:
        make_upsampler("resfu", backbone=other)
    for part in ("vit_small_patch16_224.dino", "resfu_tiny.safetensors for tiny (96 channels)",
                 "featup train --method resfu --backbone dino --images DIR"):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resolved": "vit_small_patch16_224.dino"}, "of vit_small_patch16_224.dino"),
        ({"stride": 14}, "stride 14"),
        ({"layer": 3}, "layer 3"),
        ({"norm_applied": True}, "final norm applied"),
    ],
)
def test_weights_for_other_features_need_consent(
    changes: dict[str, Any], says: str, tiny: Backbone, tmp_path: Path
) -> None:
    path = write(tmp_path / "up.safetensors", "resfu", {"channels": 96}, backbone=backbone_identity(tiny))
    other = replace(tiny, **changes)
    with pytest.raises(WeightsError, match="--allow-other-backbone") as caught:
        make_upsampler("resfu", backbone=other, upsampler=path)
    assert "is for tiny (96 channels, stride 16, layer 0, no final norm)" in str(caught.value)
    assert says in str(caught.value)
    upsampler = make_upsampler("resfu", backbone=other, upsampler=path, allow_other_backbone=True)
    assert len(upsampler.details.notes) == 1
    assert says in upsampler.details.notes[0]


def test_another_number_of_channels_is_refused_whatever_the_consent(tiny: Backbone, tmp_path: Path) -> None:
    path = write(tmp_path / "up.safetensors", "resfu", {"channels": 32}, backbone={"name": "tiny", "channels": 32})
    with pytest.raises(WeightsError, match=r"32 channels.*96 channels"):
        make_upsampler("resfu", backbone=tiny, upsampler=path, allow_other_backbone=True)
    with pytest.raises(ShapeError, match=r"\[B, 32, h, w\] for this upsampler"):
        make_upsampler("resfu", upsampler=path)(IMAGE, torch.randn(1, 96, 4, 5), (8, 8))


def test_what_a_file_does_not_say_is_noted(tiny: Backbone, tmp_path: Path) -> None:
    path = write(tmp_path / "up.safetensors", "resfu", {"channels": 96}, backbone={"name": None, "channels": 96})
    assert "does not say" in make_upsampler("resfu", backbone=tiny, upsampler=path).details.notes[0]
    write(path, "resfu", {"channels": 96}, backbone=backbone_identity(tiny) | {"weights_sha256": "0" * 64})
    assert "other weights of tiny" in make_upsampler("resfu", backbone=tiny, upsampler=path).details.notes[0]
    write(path, "resfu", {"channels": 96}, backbone={"name": "vit_small_patch16_224", "channels": 96})
    tagged = replace(tiny, resolved="vit_small_patch16_224.dino")
    assert make_upsampler("resfu", backbone=tagged, upsampler=path).details.notes == []


def test_requests_that_can_not_be_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "jbu.safetensors", "jbu", {})
    with pytest.raises(UsageError, match="of method jbu, not resfu"):
        make_upsampler("resfu", upsampler=path)
    with pytest.raises(UsageError, match="bilinear has no weights"):
        make_upsampler("bilinear", upsampler=path)
    with pytest.raises(UsageError, match="dino61: no such file, and not one of: auto"):
        make_upsampler("jbu", upsampler="dino61")
    with pytest.raises(WeightsError, match=r"none\.safetensors: can't be read"):
        make_upsampler("jbu", upsampler=tmp_path / "none.safetensors")
    write(path, "resfu", {"channels": 6, "guidance": "features"})
    with pytest.raises(UsageError, match="map of 32 channels"):
        make_upsampler("resfu", upsampler=path)


# The official release.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache; using the network fails the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(releases, "is_offline", lambda: False)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "hub" / "checkpoints"


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    """Answer every request with `content`; the list collects method and address."""
    requests: list[str] = []

    class Response(io.BytesIO):
        headers = {"Content-Length": str(len(content))}  # noqa: RUF012

    def answer(request: Any, **_: Any) -> Response:
        requests.append(f"{request.get_method()} {request.full_url}")
        return Response(content)

    def download(url: str, target: str, **_: Any) -> None:
        Path(target).write_bytes(answer(urllib.request.Request(url)).read())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return requests


def test_a_released_upsampler_is_downloaded_once_and_announced(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tiny: Backbone
) -> None:
    module, checkpoint = official(384)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    requests, announced = serve(monkeypatch, buffer.getvalue()), []
    upsampler = make_upsampler("jbu", upsampler="dino16", announce=announced.append)
    assert [request.split()[0] for request in requests] == ["HEAD", "GET"]
    assert requests[1].endswith("/pretrained/dino16_jbu_stack_cocostuff.ckpt")
    assert len(announced) == 1
    assert f"dino16 ({len(buffer.getvalue()) / 1e6:.0f} MB)" in announced[0]
    assert upsampler.provenance["source"] == "dino16"
    assert upsampler.provenance["provenance"]["url"] == RELEASES["dino16"].url
    assert isinstance(upsampler.module, NormedUpsampler)
    assert "normalised" in upsampler.details.notes[0]
    assert not is_linear(upsampler)
    feats = torch.randn(1, 384, 4, 5)
    state = checkpoint["state_dict"]
    normed = F.layer_norm(feats.movedim(1, 3), (384,), state["model.1.norm.weight"], state["model.1.norm.bias"])
    with torch.no_grad():
        expected = module(IMAGE, normed.movedim(3, 1), (64, 80))
    torch.testing.assert_close(upsampler(IMAGE, feats, (64, 80)), expected, atol=1e-5, rtol=1e-5)
    make_upsampler("jbu", upsampler="dino16", offline=True, announce=announced.append)
    assert len(requests) == 2
    assert len(announced) == 1
    dino = replace(tiny, resolved="vit_small_patch16_224.dino", channels=384, layer=11, norm_applied=True)
    assert len(make_upsampler("jbu", upsampler="dino16", backbone=dino).details.notes) == 1
    with pytest.raises(WeightsError, match=r"is for vit_small_patch16_224\.dino .* features are of tiny"):
        make_upsampler("jbu", upsampler="dino16", backbone=tiny)


def test_variants_of_a_release_do_not_share_a_file(cache: Path) -> None:
    normed, plain = RELEASES["dinov2"], RELEASES["dinov2-no-norm"]
    assert normed.cached != plain.cached
    assert (normed.normed, plain.normed) == (True, False)
    assert plain.url.endswith("/pretrained/no_norm/dinov2_jbu_stack_cocostuff.ckpt")
    assert not RELEASES["maskclip"].normed
    assert {"dino16", "dinov2", "clip", "maskclip", "vit", "resnet50"} <= set(RELEASES)
    cache.mkdir(parents=True)
    torch.save(official(384, normed=False)[1], normed.cached)
    with pytest.raises(WeightsError, match=r"variant without a norm.*delete it"):
        make_upsampler("jbu", upsampler="dinov2")
    torch.save(official(384, normed=True)[1], plain.cached)
    assert isinstance(make_upsampler("jbu", upsampler="dinov2-no-norm").module, ReleasedJBU)
    torch.save(official(6)[1], RELEASES["vit"].cached)
    with pytest.raises(WeightsError, match="6 channels, not vit's 384"):
        make_upsampler("jbu", upsampler="vit")


@pytest.mark.parametrize("offline", [True, False])
def test_a_release_that_can_not_be_had_names_the_ways_out(
    offline: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not offline:

        def fail(*_: Any, **__: Any) -> None:
            raise urllib.error.URLError("Name or service not known")

        monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(WeightsError) as caught:
        fetch(RELEASES["clip"], offline)
    for part in ("upsampler clip", "switched off" if offline else "Name or service", "https://", "--upsampler auto"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache.exists()
