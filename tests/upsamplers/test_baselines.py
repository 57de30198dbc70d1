"""The trained baselines: what holds for all, and each rule against explicit loops on a small grid."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError, UsageError, WeightsError
from featup_cli.upsamplers.baselines.carafe import CARAFE
from featup_cli.upsamplers.baselines.config import DySampleConfig, FADEConfig, SAPAConfig
from featup_cli.upsamplers.baselines.convolution import Deconv, PixelShuffle, ResizeConv
from featup_cli.upsamplers.baselines.doubling import doublings
from featup_cli.upsamplers.baselines.dysample import DySample
from featup_cli.upsamplers.baselines.fade import FADE
from featup_cli.upsamplers.baselines.mixing import PixelMixer, Reassembler, bilinear_taps, reassemble
from featup_cli.upsamplers.baselines.sapa import SAPA, similarity
from featup_cli.upsamplers.registry import make_upsampler
from featup_cli.upsamplers.weights.file import build_upsampler, load_upsampler, save_upsampler

CHANNELS = 6
MIXERS = ["carafe", "sapa", "fade", "dysample"]
CONVOLUTIONS = ["pixelshuffle", "deconv", "resize-conv"]
BASELINES = MIXERS + CONVOLUTIONS
IMAGE = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))


def make(method: str, **config: object) -> nn.Module:
    """A model away from its start, at which some gradients are zero."""
    model = build_upsampler(method, {"channels": CHANNELS, **config})
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def doubled(maps: Tensor, times: int, mode: str = "bilinear") -> Tensor:
    for _ in range(times):
        maps = F.interpolate(maps, scale_factor=2, mode=mode)
    return maps


def pixel(maps: Tensor, y: int, x: int) -> Tensor:
    """Pixel [C] of maps [C, h, w]; the border repeats."""
    return maps[:, min(max(y, 0), maps.shape[1] - 1), min(max(x, 0), maps.shape[2] - 1)]


def window(maps: Tensor, y: int, x: int, side: int) -> Tensor:
    """The pixels [C, side * side] around (y, x) of maps [C, h, w]."""
    offsets = range(-(side // 2), side // 2 + 1)
    return torch.stack([pixel(maps, y + dy, x + dx) for dy in offsets for dx in offsets], 1)


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize(
    ("lr_size", "output_size"), [((4, 5), (37, 45)), ((3, 7), (20, 30)), ((2, 2), (32, 32)), ((6, 4), (3, 9))]
)
def test_any_output_size_is_met_exactly(method: str, lr_size: tuple[int, int], output_size: tuple[int, int]) -> None:
    with torch.no_grad():
        out = make(method)(IMAGE, torch.randn(2, CHANNELS, *lr_size), output_size)
    assert out.shape == (2, CHANNELS, *output_size)
    assert out.isfinite().all()


def test_the_grid_is_doubled_until_it_is_close() -> None:
    assert [doublings((10, 10), (n, n)) for n in (5, 10, 20, 21, 22, 40, 160, 170)] == [1, 1, 1, 1, 2, 2, 4, 4]
    assert doublings((10, 20), (80, 20)) == 3


@pytest.mark.parametrize("method", BASELINES)
def test_constants_survive_whatever_the_weights(method: str) -> None:
    lr_feats = torch.linspace(-2, 5, CHANNELS).view(1, -1, 1, 1).expand(2, -1, 3, 4)
    with torch.no_grad():
        out = make(method)(IMAGE, lr_feats, (13, 18))
    torch.testing.assert_close(out, lr_feats[..., :1, :1].expand_as(out), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "mode", "tolerance"),
    [
        ("pixelshuffle", "nearest", 1e-5), ("deconv", "bilinear", 1e-5), ("resize-conv", "bilinear", 1e-5),
        ("dysample", "bilinear", 0.1), ("carafe", "bilinear", 0.2),
    ],
)  # fmt: skip
def test_untrained_it_interpolates(method: str, mode: str, tolerance: float) -> None:
    lr_feats = torch.randn(2, CHANNELS, 5, 7) * torch.logspace(-2, 2, CHANNELS)[:, None, None]
    with torch.no_grad():
        out = build_upsampler(method, {"channels": CHANNELS})(IMAGE, lr_feats, (20, 28))
    spread = lr_feats.std((2, 3), keepdim=True)
    assert ((out - doubled(lr_feats, 2, mode)) / spread).abs().max() < tolerance


@pytest.mark.parametrize(
    ("method", "config"),
    [(method, {}) for method in BASELINES]
    + [("sapa", {"gate": False}), ("fade", {"gate": False}), ("dysample", {"dynamic_scope": False})],
)
def test_gradients_reach_every_parameter_and_the_features(method: str, config: dict[str, object]) -> None:
    model = make(method, **config)
    lr_feats = torch.randn(2, CHANNELS, 4, 5, requires_grad=True)
    (model(IMAGE, lr_feats, (16, 19)) * torch.randn(2, CHANNELS, 16, 19)).sum().backward()
    for name, parameter in [*model.named_parameters(), ("features", lr_feats)]:
        if name == "k.bias" and not config.get("gate", True):
            continue  # adds the same to all scores of a window
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("method", MIXERS)
def test_values_are_mixed_as_the_features_are(method: str) -> None:
    model, lr_feats = make(method), torch.randn(2, CHANNELS, 3, 4)
    projection = torch.randn(CHANNELS, 2)
    with torch.no_grad():
        whole = torch.einsum("bchw,ck->bkhw", model(IMAGE, lr_feats, (11, 16)), projection)
        few = model(IMAGE, lr_feats, (11, 16), torch.einsum("bchw,ck->bkhw", lr_feats, projection))
    torch.testing.assert_close(few, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", MIXERS)
def test_codes_doubled_beside_the_features_are_those_of_the_doubled_features(method: str) -> None:
    model, lr_feats = make(method), torch.randn(2, CHANNELS, 3, 4)
    assert isinstance(model, PixelMixer)
    with torch.no_grad():
        weights = model.predict(model.encode(lr_feats), IMAGE)
        doubled_codes = model.mix(model.encode(lr_feats), weights)
        anew = model.encode(model.mix(lr_feats, weights))
    torch.testing.assert_close(doubled_codes, anew, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["carafe", "sapa", "fade"])
def test_taps_are_positive_and_sum_to_one(method: str) -> None:
    model = make(method)
    assert isinstance(model, Reassembler)
    with torch.no_grad():
        taps = model.predict(model.encode(torch.randn(2, CHANNELS, 3, 4)), IMAGE)
    assert taps.shape == (2, 4, 25, 3, 4)
    assert taps.min() >= 0
    torch.testing.assert_close(taps.sum(2), torch.ones(2, 4, 3, 4))


@pytest.mark.parametrize("method", BASELINES)
def test_items_of_a_batch_do_not_mix(method: str) -> None:
    model, lr_feats = make(method), torch.randn(2, CHANNELS, 3, 4)
    with torch.no_grad():
        together = model(IMAGE, lr_feats, (12, 16))
        alone = model(IMAGE[1:], lr_feats[1:], (12, 16))
    torch.testing.assert_close(alone, together[1:], atol=1e-4 * float(alone.std()), rtol=1e-4)


@pytest.mark.parametrize("method", BASELINES)
def test_bfloat16_stays_close(method: str) -> None:
    model, lr_feats = make(method), torch.randn(2, CHANNELS, 3, 4)
    with torch.no_grad():
        expected = model(IMAGE, lr_feats, (12, 16))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(IMAGE, lr_feats, (12, 16)).float()
    assert (half - expected).square().mean().sqrt() < 0.05 * expected.std()


def test_reassembly_is_a_weighted_sum_of_the_window_around_the_old_pixel() -> None:
    maps, taps = torch.randn(1, 2, 2, 3), torch.rand(1, 4, 25, 2, 3)
    out = reassemble(maps, taps)
    for y in range(4):
        for x in range(6):
            own = taps[0, 2 * (y % 2) + x % 2, :, y // 2, x // 2]
            torch.testing.assert_close(out[0, :, y, x], window(maps[0], y // 2, x // 2, 5) @ own)


@pytest.mark.parametrize("side", [3, 5])
def test_bilinear_taps_interpolate(side: int) -> None:
    maps = torch.randn(1, 2, 4, 3)
    taps = bilinear_taps(side)[None, :, :, None, None].expand(1, 4, side**2, 4, 3)
    torch.testing.assert_close(reassemble(maps, taps), doubled(maps, 1))


def test_carafe_reassembles_by_a_softmax_of_what_its_convolution_predicts() -> None:
    model = make("carafe", kernel_size=3, compressed=4)
    assert isinstance(model, CARAFE)
    lr_feats = torch.randn(1, CHANNELS, 2, 2)
    weight, bias = model.kernels.weight.flatten(1), model.kernels.get_parameter("bias")
    with torch.no_grad():
        out = model(IMAGE[:1], lr_feats, (4, 4))
        compressed = model.compress(model.norm(lr_feats))[0]
        for y in range(4):
            for x in range(4):
                logits = (weight @ window(compressed, y // 2, x // 2, 3).flatten() + bias).view(4, 9)
                kernel = logits[2 * (y % 2) + x % 2].softmax(0)
                torch.testing.assert_close(out[0, :, y, x], window(lr_feats[0], y // 2, x // 2, 3) @ kernel)


@pytest.mark.parametrize("gate", [True, False])
def test_sapa_mixes_by_a_softmax_of_gated_inner_products(gate: bool) -> None:
    model = make("sapa", kernel_size=3, embedding=4, guidance_channels=4, gate=gate)
    assert isinstance(model, SAPA)
    lr_feats, image = torch.randn(1, CHANNELS, 2, 2), torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        out = model(image, lr_feats, (4, 4))
        normalised = model.norm(lr_feats)
        key, query = model.k(normalised)[0], model.q(model.norm_y(model.stem(image)))[0]
        for y in range(4):
            for x in range(4):
                own = query[:, y, x]
                if gate:
                    share = model.gate(normalised)[0, 0, y // 2, x // 2].sigmoid()
                    own = share * own + (1 - share) * model.p(normalised)[0, :, y // 2, x // 2]
                kernel = (own @ window(key, y // 2, x // 2, 3)).softmax(0)
                torch.testing.assert_close(out[0, :, y, x], window(lr_feats[0], y // 2, x // 2, 3) @ kernel)


def test_similarity_to_the_own_pixel_is_in_the_middle() -> None:
    key = F.normalize(torch.randn(1, 8, 3, 3), dim=1)
    scores = similarity(key[:, :, None].expand(-1, -1, 4, -1, -1), key, 5)
    torch.testing.assert_close(scores[:, :, 12], torch.ones(1, 4, 3, 3))
    assert scores.max() < 1 + 1e-5


@pytest.mark.parametrize("gate", [True, False])
def test_fade_adds_a_convolution_around_the_new_pixel_to_one_around_the_old(gate: bool) -> None:
    model = make("fade", kernel_size=3, compressed=4, gate=gate)
    assert isinstance(model, FADE)
    lr_feats, image = torch.randn(1, CHANNELS, 2, 2), torch.rand(1, 3, 4, 4)
    weight = model.kernels.weight.flatten(1)
    with torch.no_grad():
        out = model(image, lr_feats, (4, 4))
        normalised = model.norm(lr_feats)
        compressed, guidance = model.compress(normalised)[0], model.stem(image)[0]
        for y in range(4):
            for x in range(4):
                around_both = window(guidance, y, x, 3) + window(compressed, y // 2, x // 2, 3)
                kernel = (weight @ around_both.flatten() + model.bias).softmax(0)
                expected = window(lr_feats[0], y // 2, x // 2, 3) @ kernel
                if gate:
                    share = model.gate(normalised)[0, 0, y // 2, x // 2].sigmoid()
                    expected = share * doubled(lr_feats, 1)[0, :, y, x] + (1 - share) * expected
                torch.testing.assert_close(out[0, :, y, x], expected)


@pytest.mark.parametrize("dynamic", [True, False])
def test_dysample_samples_where_its_offsets_point_to(dynamic: bool) -> None:
    model = make("dysample", dynamic_scope=dynamic)
    assert isinstance(model, DySample)
    lr_feats = torch.randn(1, CHANNELS, 3, 3)
    with torch.no_grad():
        out = model(IMAGE[:1], lr_feats, (6, 6))
        normalised = model.norm(lr_feats)
        for y in range(6):
            for x in range(6):
                old, part = (0, slice(None), y // 2, x // 2), 2 * (y % 2) + x % 2
                offset = 0.5 * model.offset(normalised)[old].view(2, 4)[:, part]
                scope = model.scope(normalised)[old].view(2, 4)[:, part].sigmoid() if dynamic else torch.tensor(0.5)
                row, column = (torch.tensor([y, x]) / 2 - 0.25 + scope * offset).tolist()
                top, left = math.floor(row), math.floor(column)
                down, right = row - top, column - left
                expected = (1 - down) * ((1 - right) * pixel(lr_feats[0], top, left)
                                         + right * pixel(lr_feats[0], top, left + 1))  # fmt: skip
                expected = expected + down * ((1 - right) * pixel(lr_feats[0], top + 1, left)
                                              + right * pixel(lr_feats[0], top + 1, left + 1))  # fmt: skip
                torch.testing.assert_close(out[0, :, y, x], expected)


def test_pixelshuffle_gives_each_new_pixel_a_kernel_of_its_own() -> None:
    layer = PixelShuffle(2).depthwise
    weight = torch.randn(8, 1, 3, 3)
    layer[0].weight.data.copy_(weight)  # type: ignore[index, operator]
    maps = torch.randn(1, 2, 3, 2)
    out = layer(maps)
    for c, y, x in ((0, 0, 0), (0, 3, 2), (1, 5, 3), (1, 2, 1)):
        kernel = weight[4 * c + 2 * (y % 2) + x % 2].flatten()
        torch.testing.assert_close(out[0, c, y, x], window(maps[0], y // 2, x // 2, 3)[c] @ kernel)


def test_deconvolution_spreads_each_pixel_over_four_by_four() -> None:
    layer = Deconv(1).depthwise
    kernel = torch.randn(4, 4)
    layer[1].weight.data.copy_(kernel)  # type: ignore[index, operator]
    maps = torch.randn(1, 1, 3, 2)
    canvas = torch.zeros(12, 10)  # of the grid with a repeated border, around which a pixel spreads by one more
    for y in range(-1, 4):
        for x in range(-1, 3):
            canvas[2 * y + 2 : 2 * y + 6, 2 * x + 2 : 2 * x + 6] += pixel(maps[0], y, x) * kernel
    torch.testing.assert_close(layer(maps)[0, 0], canvas[3:9, 3:7])


def test_resize_convolution_convolves_the_doubled_map() -> None:
    layer = ResizeConv(1).depthwise
    kernel = torch.randn(3, 3)
    layer[1].weight.data.copy_(kernel)  # type: ignore[index, operator]
    maps = torch.randn(1, 1, 2, 3)
    larger, out = doubled(maps, 1)[0], layer(maps)
    for y, x in ((0, 0), (1, 4), (3, 5)):
        torch.testing.assert_close(out[0, 0, y, x], window(larger, y, x, 3)[0] @ kernel.flatten())


@pytest.mark.parametrize("method", CONVOLUTIONS)
def test_convolutions_follow_the_scale_of_each_channel(method: str) -> None:
    model, lr_feats = make(method), torch.randn(2, CHANNELS, 3, 4)
    scale = torch.logspace(-3, 3, CHANNELS)[:, None, None]
    with torch.no_grad():
        out = model(IMAGE, lr_feats, (12, 15))
        scaled = model(IMAGE, lr_feats * scale + 1, (12, 15))
    torch.testing.assert_close((scaled - 1) / scale, out, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", BASELINES)
def test_files_bring_back_the_very_upsampler(method: str, tmp_path: Path) -> None:
    model, lr_feats = make(method), torch.randn(2, CHANNELS, 3, 4)
    path = tmp_path / f"{method}.safetensors"
    save_upsampler(path, model, {"backbone": {"name": "tiny", "channels": CHANNELS}, "provenance": {}, "card": ""})
    loaded, metadata = load_upsampler(path)
    assert metadata["method"] == method
    with torch.no_grad():
        expected = model(IMAGE, lr_feats, (9, 8))
        torch.testing.assert_close(loaded(IMAGE, lr_feats, (9, 8)), expected)
        torch.testing.assert_close(make_upsampler(method, upsampler=path)(IMAGE, lr_feats, (9, 8)), expected)


@pytest.mark.parametrize("method", BASELINES)
def test_another_number_of_channels_is_refused(method: str, tmp_path: Path) -> None:
    model = make(method)
    with pytest.raises(ShapeError, match=rf"lr_feats must be \[B, {CHANNELS}, h, w\], not \[2, 5, 3, 4\]"):
        model(IMAGE, torch.randn(2, 5, 3, 4), (9, 8))
    with pytest.raises(RuntimeError, match="size mismatch"):
        build_upsampler(method, {"channels": 5}).load_state_dict(model.state_dict())


@pytest.mark.parametrize("method", BASELINES)
def test_without_weights_it_says_how_to_train_some(method: str) -> None:
    with pytest.raises(WeightsError, match=rf"featup train --method {method} --backbone NAME --images DIR"):
        make_upsampler(method)


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        ("carafe", {"kernel_size": 4}, "kernel_size=4: must be odd"),
        ("sapa", {"kernel_size": 1}, "kernel_size=1: must be at least 3"),
        ("fade", {"encoder_size": 2}, "encoder_size=2: must be odd"),
        ("sapa", {"embedding": 0}, "embedding=0: must be above 0"),
        ("dysample", {"reach": -1.0}, "reach=-1.0: must be above 0"),
        ("deconv", {"hidden": 0}, "hidden=0: must be above 0"),
        ("pixelshuffle", {"width": 3}, "pixelshuffle can't be built with"),
    ],
)
def test_settings_that_cannot_be_are_refused(method: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_upsampler(method, {"channels": CHANNELS, **config})


def test_parts_that_settings_switch_off_hold_no_parameters() -> None:
    for kind, config in (
        (SAPA, SAPAConfig(gate=False)), (FADE, FADEConfig(gate=False)), (DySample, DySampleConfig(dynamic_scope=False)),
    ):  # fmt: skip
        assert len(list(kind(CHANNELS, config).parameters())) < len(list(kind(CHANNELS).parameters()))
