"""The number format of a backbone: networks that overflow, that lose digits, and that do neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from featup_cli.backbones import precision as module
from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.precision import Precision, computes_in, relative_error
from featup_cli.backbones.registry import load_backbone
from featup_cli.batch.run import BatchOptions, plan_run
from featup_cli.core.errors import PrecisionError, UsageError
from featup_cli.engine.pipeline import Pipeline
from featup_cli.engine.settings import Output, Upsampling
from featup_cli.evaluation.source import FeatureSource, Request

CPU = torch.device("cpu")
IMAGES = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
KERNEL = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) / 300
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Network = Callable[[Tensor], Tensor]


def plain(images: Tensor) -> Tensor:
    return F.conv2d(images, KERNEL, stride=16)


def overflowing(images: Tensor) -> Tensor:
    """Activations of about 1e6, beyond the largest float16, that come back to 1."""
    return F.conv2d(images, 1e6 * KERNEL, stride=16) / 1e6


def cancelling(images: Tensor) -> Tensor:
    """A small signal on a large constant, which is taken away again: no half format holds its digits."""
    return F.conv2d(images, KERNEL, torch.full((4,), 1000.0), stride=16) - 1000


def made(network: Network, asked: str = "auto", model: str = "") -> Backbone:
    tiny = load_backbone(BackboneConfig(random_weights=True))
    return replace(tiny, network=network, channels=4, precision=Precision(asked, CPU, model))


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU count as an accelerator."""
    monkeypatch.setattr(module, "is_accelerator", lambda device: True)


def measured(network: Network, images: Tensor, precision: str) -> float:
    """Relative error of a format, by float64 sums over the features."""
    with torch.autocast("cpu", DTYPES[precision]):
        features = network(images).double()
    exact = network(images).double()
    return float(((features - exact) ** 2).sum().sqrt() / (exact**2).sum().sqrt())


@pytest.mark.parametrize(
    ("network", "chosen", "tried"),
    [(plain, "float16", ["float16"]), (overflowing, "bfloat16", ["float16", "bfloat16"]),
     (cancelling, "float32", ["float16", "bfloat16"])],
)  # fmt: skip
@pytest.mark.usefixtures("accelerated")
def test_auto_takes_the_first_format_that_stays_within_one_percent(
    network: Network, chosen: str, tried: list[str]
) -> None:
    backbone = made(network)
    features = backbone(IMAGES)
    facts = json.loads(json.dumps(backbone.describe(), allow_nan=False))
    assert facts["precision"] == chosen
    choice = facts["precision_choice"]
    assert (choice["asked"], list(choice["errors"])) == ("auto", tried)
    for precision, error in choice["errors"].items():
        if network is overflowing and precision == "float16":
            assert error is None
            assert "float16 is not finite on the first picture" in choice["reason"]
        else:
            assert error == pytest.approx(measured(network, IMAGES[:1], precision), rel=1e-3)
            assert (error <= 0.01) == (precision == chosen)
            assert f"{precision} is {error:.2%} from float32" in choice["reason"]
    with torch.autocast("cpu", DTYPES[chosen], enabled=chosen != "float32"):
        expected = network(IMAGES)
    assert torch.equal(features, expected.float())
    assert features.dtype == torch.float32


def test_auto_on_a_cpu_is_float32_and_tries_nothing() -> None:
    seen: list[int] = []

    def network(images: Tensor) -> Tensor:
        seen.append(len(images))
        return plain(images)

    backbone = made(network)
    assert backbone.describe()["precision"] == "float32"
    assert torch.equal(backbone(IMAGES), plain(IMAGES))
    assert seen == [3]


@pytest.mark.usefixtures("accelerated")
def test_the_decision_is_made_once_by_the_first_picture_alone() -> None:
    sizes: list[int] = []

    def network(images: Tensor) -> Tensor:
        sizes.append(len(images))
        # Bright pictures lose their digits, dark ones don't.
        return cancelling(images) if images.mean() > 0.5 else plain(images)

    dark, bright = IMAGES / 4, IMAGES.clamp(min=0.9)
    backbone = made(network)
    assert backbone.describe()["precision"] is None
    before = backbone.identity()
    backbone(torch.cat((dark[:1], bright)))
    assert backbone.describe()["precision"] == "float16"
    assert sizes == [1, 1, 4]
    backbone(bright)
    assert backbone.describe()["precision"] == "float16"
    assert sizes == [1, 1, 4, 3]
    assert backbone.identity() == before
    assert before["precision"] == "auto"


@pytest.mark.usefixtures("accelerated")
def test_a_twin_of_another_stride_shares_the_decision() -> None:
    vit = load_backbone(BackboneConfig("vit_tiny_patch16_224", random_weights=True, model_args={"depth": 1}))
    twin = vit.with_stride(8)
    twin(IMAGES)
    assert vit.precision is twin.precision
    assert vit.describe()["precision"] == "float16"


@pytest.mark.usefixtures("accelerated")
def test_with_auto_a_later_picture_that_overflows_is_made_in_float32() -> None:
    def network(images: Tensor) -> Tensor:
        return F.conv2d(images, KERNEL, stride=16) / F.conv2d(1 - images, KERNEL, stride=16)

    backbone = made(network)
    backbone(IMAGES[:1])
    assert backbone.describe()["precision"] == "float16"
    images = IMAGES.clone()
    images[1] = 1 - 1e-7  # one minus that is zero in float16
    features = backbone(images)
    assert features.isfinite().all()
    torch.testing.assert_close(features[1], network(images[1:2])[0])
    with torch.autocast("cpu", torch.float16):
        expected = network(images[[0, 2]])
    assert torch.equal(features[[0, 2]], expected.float())


@pytest.mark.usefixtures("accelerated")
def test_a_model_that_is_known_to_overflow_is_not_tried_in_float16() -> None:
    backbone = made(plain, model="vit_small_patch16_dinov3 vit_small_patch16_dinov3.lvd1689m")
    backbone(IMAGES)
    facts = backbone.describe()
    assert facts["precision"] == "bfloat16"
    assert list(facts["precision_choice"]["errors"]) == ["bfloat16"]
    assert made(cancelling, model="x dinov3").precision.decide(cancelling, IMAGES[:1]).precision == "float32"


@pytest.mark.usefixtures("accelerated")
def test_dinov3_of_timm_is_known_by_its_name() -> None:
    args = {"depth": 1}
    for name, known in [("vit_small_patch16_dinov3", True), ("vit_tiny_patch16_224", False)]:
        backbone = load_backbone(BackboneConfig(name, random_weights=True, model_args=args))
        assert backbone.precision.overflows is known


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_what_is_asked_runs_on_a_cpu_as_well(asked: str) -> None:
    args = {"depth": 2}
    backbone = load_backbone(
        BackboneConfig("vit_tiny_patch16_224", random_weights=True, model_args=args, precision=asked)
    )
    features = backbone(IMAGES)
    facts = backbone.describe()
    assert (facts["precision"], facts["precision_choice"]["asked"]) == (asked, asked)
    assert backbone.identity()["precision"] == asked
    exact = replace(backbone, precision=Precision("float32", CPU))(IMAGES)
    error = relative_error(features, exact)
    assert error is not None
    assert error == 0 if asked == "float32" else 1e-5 < error < 0.03


def test_autocast_around_a_backbone_does_not_change_its_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        features, rounded = made(plain)(IMAGES), plain(IMAGES)
    assert torch.equal(features, plain(IMAGES))
    assert rounded.dtype == torch.bfloat16


def test_float16_that_overflows_names_the_picture_and_the_ways_out(tmp_path: Path) -> None:
    dark, bright = tmp_path / "dark.png", tmp_path / "bright.png"
    for path, value in ((dark, 0), (bright, 255)):
        Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(path)
    settings = Upsampling(BackboneConfig(precision="float16"), "bilinear", resize="32x32")
    pipeline = Pipeline(settings, made(overflowing, "float16"))
    pictures = [pipeline.read(path) for path in (dark, bright)]
    with pytest.raises(PrecisionError, match=r"bright\.png: .*--precision bfloat16 or float32"):
        pipeline.extract(pictures, pipeline.plan(pictures[0]))
    with pytest.raises(PrecisionError, match=r"bright\.png"):
        pipeline.run(bright)
    pipeline.run(dark)
    bfloat16 = Pipeline(settings, made(overflowing, "bfloat16")).run(bright)
    assert bfloat16.provenance["backbone"]["precision"] == "bfloat16"


def test_what_can_not_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="precision float8: choose from auto, float32, bfloat16, float16"):
        load_backbone(BackboneConfig(precision="float8"))
    assert not computes_in(torch.device("meta"), "float16")
    monkeypatch.setattr(module, "computes_in", lambda device, precision: False)
    with pytest.raises(UsageError, match="--precision float16: not supported on cpu; give --precision float32"):
        load_backbone(BackboneConfig(precision="float16"))


@pytest.mark.usefixtures("accelerated")
def test_a_device_without_half_formats_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "computes_in", lambda device, precision: False)
    backbone = made(plain)
    backbone(IMAGES)
    facts = backbone.describe()
    assert facts["precision"] == "float32"
    assert "cpu can't compute it in float16; cpu can't compute it in bfloat16" in facts["precision_choice"]["reason"]


def test_an_operation_that_the_format_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(images: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise NotImplementedError("no kernel")
        return plain(images)

    with pytest.raises(UsageError, match=r"--precision bfloat16: cpu .*no kernel"):
        made(network, "bfloat16")(IMAGES)
    monkeypatch.setattr(module, "is_accelerator", lambda device: True)
    assert torch.equal(made(network)(IMAGES), plain(IMAGES))


def test_resume_and_caches_go_by_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray((IMAGES[0].permute(1, 2, 0) * 255).byte().numpy()).save(picture)

    def statuses(precision: str) -> list[str]:
        """Of a run, and of one that may replace its results if the first one may not."""
        settings = Upsampling(BackboneConfig(precision=precision), "nearest", resize="32x48", device="cpu")
        output, found = Output(picture=False), []
        for options in (BatchOptions(), BatchOptions(overwrite=True)):
            run = plan_run([str(picture)], tmp_path / "out", settings, output, options)
            found += [record.status for record in run.records()]
            if found != ["failed"]:
                break
        return found

    replaced = ["failed", "done"]
    assert [statuses(p) for p in ("auto", "auto", "float32", "bfloat16", "bfloat16")] == [
        ["done"], ["skipped"], ["skipped"], replaced, ["skipped"],
    ]  # fmt: skip
    monkeypatch.setattr(module, "is_accelerator", lambda device: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # as what is remembered is of another device
    assert [statuses("auto") for _ in range(2)] == [replaced, ["skipped"]]
    source = FeatureSource(Request(device="cpu", resize="32x48"))
    before = source.identity()
    assert source.describe()["backbone"]["precision"] is None
    source.look(picture)
    assert source.identity() == before
    assert source.describe()["backbone"]["precision"] == "float16"
