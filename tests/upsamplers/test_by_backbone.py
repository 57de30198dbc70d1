"""Strided and large-image: more tokens from the backbone itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.errors import UsageError
from featup_cli.engine.pipeline import Pipeline, upsample
from featup_cli.engine.settings import Upsampling
from featup_cli.multiview.views import resize_picture
from featup_cli.upsamplers.denser.upsampler import DenserTokens, LargeImageUpsampler, StridedUpsampler

SIZE = (48, 64)
METHODS = [StridedUpsampler, LargeImageUpsampler]


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return load_backbone(BackboneConfig("vit_tiny_patch16_224", random_weights=True, model_args={"depth": 1}))


def picture(size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand(1, 3, *size)


@pytest.mark.parametrize("method", METHODS)
def test_factor_one_gives_the_backbones_own_features(method: type[DenserTokens], vit: Backbone) -> None:
    image = picture()
    out = method(vit, SIZE, factor=1)(image, vit(image), (3, 4))
    torch.testing.assert_close(out, vit(image))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("output", [(48, 64), (37, 131), (2, 3)])
def test_any_output_size_is_met_exactly(method: type[DenserTokens], output: tuple[int, int], vit: Backbone) -> None:
    upsampler, image = method(vit, SIZE), picture((70, 90)).repeat(2, 1, 1, 1)
    lr_feats = vit(F.interpolate(image, SIZE))
    out = upsampler(image, lr_feats, output)
    assert out.shape == (2, 192, *output)
    bands = torch.cat(list(upsampler.bands(image, lr_feats, output, 5)), 2)
    torch.testing.assert_close(bands, out, atol=1e-4, rtol=1e-4)
    estimates = [upsampler.band_bytes(lr_feats.shape, output, rows) for rows in (1, 2, 40)]
    assert 4 * out.numel() < estimates[-1]
    assert estimates == sorted(estimates)


def test_the_methods_are_what_they_say(vit: Backbone) -> None:
    image = picture()
    lr_feats = vit(image)
    strided = StridedUpsampler(vit, SIZE)(image, lr_feats, (12, 16))
    torch.testing.assert_close(strided, vit.with_stride(4)(image))
    large = LargeImageUpsampler(vit, SIZE)(image, lr_feats, (12, 16))
    torch.testing.assert_close(large, vit(resize_picture(image[0], (192, 256))[None]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("output", "factor"), [((3, 4), 1), ((6, 8), 2), ((20, 24), 4), ((96, 128), 8)])
def test_the_factor_follows_the_output(
    method: type[DenserTokens], output: tuple[int, int], factor: int, vit: Backbone
) -> None:
    upsampler, image = method(vit, SIZE), picture()
    upsampler(image, vit(image), output)
    assert upsampler.details.scores == {"factor": factor, "tokens": 12 * factor**2}
    assert f"{factor}x" in upsampler.details.notes[0]
    assert "tokens" in upsampler.details.notes[0]


def test_the_default_stays_moderate_and_what_is_infeasible_is_refused_with_the_estimate(vit: Backbone) -> None:
    sizes = []

    def network(images: torch.Tensor) -> torch.Tensor:
        sizes.append(images.shape[2:])
        return images.new_zeros(1, vit.channels, images.shape[2] // 16, images.shape[3] // 16)

    counted = replace(vit, network=network)
    image, lr_feats = picture((224, 224)), torch.zeros(1, vit.channels, 14, 14)
    LargeImageUpsampler(counted, (224, 224))(image, lr_feats, (224, 224))
    assert sizes == [(896, 896)]  # 8x would be 12,544 tokens: 3 heads * 12,544^2 * 4 bytes are 1.8 GiB
    with pytest.raises(UsageError, match=r"infeasible.*50,176 tokens.*28 GiB"):
        LargeImageUpsampler(counted, (224, 224), factor=16)(image, lr_feats, (224, 224))
    large = torch.zeros(1, vit.channels, 100, 100)
    with pytest.raises(UsageError, match=r"2x is computationally infeasible.*40,000 tokens"):
        StridedUpsampler(counted, (1600, 1600))(image, large, (1600, 1600))
    assert len(sizes) == 1


def test_backbones_that_cannot_are_refused_in_a_line(vit: Backbone) -> None:
    tiny = load_backbone(BackboneConfig("tiny", random_weights=True))
    with pytest.raises(UsageError, match=r"strided needs a vision transformer.*large-image"):
        StridedUpsampler(tiny, SIZE)
    fixed = load_backbone(BackboneConfig("levit_128s", random_weights=True))
    with pytest.raises(UsageError, match=r"large-image needs .* 224x224 pixels \(height x width\) only"):
        LargeImageUpsampler(fixed, (224, 224))
    with pytest.raises(UsageError, match="loaded backbone"):
        LargeImageUpsampler(lambda x: x, SIZE)
    with pytest.raises(UsageError, match="factor 0"):
        LargeImageUpsampler(vit, SIZE, factor=0)
    with pytest.raises(UsageError, match="32x is impossible"):
        StridedUpsampler(vit, SIZE, factor=32)


def test_a_convolutional_network_takes_a_large_image() -> None:
    result = upsample(torch.rand(3, 50, 70), backbone="tiny", method="large-image", resize="32x48", output_size="50x70")
    assert result.features.shape == (96, 50, 70)
    assert result.scores["factor"] == 8


def test_the_pipeline_refuses_before_it_reads_a_picture() -> None:
    with pytest.raises(UsageError, match="vision transformer"):
        Pipeline(Upsampling(BackboneConfig("tiny"), method="strided"))
