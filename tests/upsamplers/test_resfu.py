from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.upsamplers.resfu import plan as plans
from featup_cli.upsamplers.resfu.components import explained_part, leading_components
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.guided_filter import sliding_sum
from featup_cli.upsamplers.resfu.key import HighResKey, LowResKey
from featup_cli.upsamplers.resfu.plan import Keep, Plan
from featup_cli.upsamplers.resfu.rows import Window, bands_of, stored
from featup_cli.upsamplers.resfu.statistics import Affine, Map, Moments, norms_of
from featup_cli.upsamplers.resfu.upsampler import ReSFU
from tests.upsamplers.resfu_reference import (
    high_res_neighbors,
    inside,
    low_res_neighbors,
    plain_resfu,
    plain_weights,
    up,
)

GUIDED = ReSFUConfig(guidance="features")
TINY = ReSFUConfig(projection=8, hidden=16, guidance_channels=8, filter_radius=2)
VARIANTS = [
    TINY,
    ReSFUConfig(kernel_size=5, projection=8, groups=2, hidden=16, guidance_channels=8, scores="semantic"),
    ReSFUConfig(projection=8, hidden=16, guidance_channels=8, guided_query=False, smoothed_key=False),
    ReSFUConfig(projection=8, hidden=16, guidance_channels=8, similarity="inner_product"),
    ReSFUConfig(projection=8, hidden=16, guidance_channels=8, neighbors="coarse"),
    ReSFUConfig(projection=8, hidden=16, guidance_channels=8, neighbors="coarse", similarity="inner_product"),
    ReSFUConfig(projection=8, hidden=16, guidance="features", guidance_channels=3, scores="detail"),
    replace(TINY, sharpen_lr=0.5, sharpen_lr_wide=0.2),
    ReSFUConfig(projection=8, hidden=16, guidance_channels=8, filter_radius=2, key="components", key_components=4),
    replace(TINY, filter_scale=1),
    replace(TINY, filter_radius=1, filter_scale=3),
    replace(TINY, hidden=4, compressed=24, relu_first=False),
    replace(TINY, similarity="concat"),
    replace(TINY, similarity="concat", groups=1, scores="semantic", neighbors="coarse", compressed=8),
]
CALLS = ["gradients", "no gradients", "bands"]


def make(channels: int = 6, config: ReSFUConfig = TINY) -> ReSFU:
    """A model whose norms and biases differ from their neutral start."""
    model = ReSFU(channels, config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias") or ".3." in name:
            nn.init.normal_(parameter, 0.5, 0.5)
    return model


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps are made in several bands too."""
    monkeypatch.setattr(plans, "_CPU_PIXELS", 72)
    monkeypatch.setattr(plans, "_TALL", 5)
    monkeypatch.setattr(plans, "_ALIGNED", 6)


def call(how: str, model: ReSFU, image: Tensor, feats: Tensor, size: tuple[int, int]) -> Tensor:
    if how == "bands":
        return torch.cat(list(model.bands(image, feats, size, rows=5)), 2)
    with torch.set_grad_enabled(how == "gradients"):
        return model(image, feats, size)


# In float64, where rounding hides no difference.
@pytest.mark.parametrize("size", [(16, 24), (17, 23), (35, 23), (3, 4)])
@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("config", VARIANTS)
def test_is_the_plain_formula(config: ReSFUConfig, how: str, size: tuple[int, int], few_rows: None) -> None:
    model = make(config=config).double()
    image, feats = torch.rand(2, 3, 40, 30).double(), torch.randn(2, 6, 4, 6).double()
    out = call(how, model, image, feats, size)
    torch.testing.assert_close(out, plain_resfu(model, image, feats, size), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("config", [GUIDED, replace(GUIDED, kernel_size=5, groups=2)])
def test_is_the_plain_formula_in_float32(config: ReSFUConfig, how: str) -> None:
    model, guidance, feats = make(64, config), torch.randn(2, 32, 60, 40), torch.randn(2, 64, 15, 20)
    out = call(how, model, guidance, feats, (60, 40))
    torch.testing.assert_close(out, plain_resfu(model, guidance, feats, (60, 40)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (3, 4)])
@pytest.mark.parametrize("config", VARIANTS)
def test_gradients_are_those_of_the_plain_formula(config: ReSFUConfig, size: tuple[int, int]) -> None:
    model = make(config=config).double()
    image, feats = torch.rand(2, 3, 40, 30).double(), torch.randn(2, 6, 4, 6).double()
    inputs = [image.requires_grad_(), feats.requires_grad_(), *model.parameters()]
    weights = torch.randn(2, 6, *size).double()
    found, expected = (
        torch.autograd.grad((upsample() * weights).sum(), inputs, allow_unused=True)
        for upsample in (lambda: model(image, feats, size), lambda: plain_resfu(model, image, feats, size))
    )
    scale = max(float(t.abs().max()) for t in expected if t is not None)
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-9 * scale, rtol=1e-9)


@pytest.mark.parametrize("keep", [Keep.NONE, Keep.ALL])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("size", [(12, 20), (13, 17), (30, 8), (3, 4)])
@pytest.mark.parametrize("side", [3, 5])
def test_low_res_keys_convolve_with_neighbors_read_from_the_low_resolution(
    size: tuple[int, int], side: int, coarse: bool, keep: Keep, few_rows: None
) -> None:
    maps, weight, bias = torch.randn(2, 4, 4, 6), torch.randn(6, 2, side, side), torch.randn(6)
    near = [*low_res_neighbors(maps, size, side, coarse)]
    expected = F.conv2d(torch.stack(near, 2).flatten(1, 2), weight.flatten(1)[:, :, None, None], bias, groups=2)
    key, plan = LowResKey(maps, size, coarse), Plan(TINY, (4, 6), size, maps.device, keep)
    rows = key.convolved(weight, bias.expand(2, -1), groups=2, plan=plan)
    out = torch.cat([rows(*band) for band in bands_of(size[0], plan.rows)], 2)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    for read, neighbor in zip(key.neighbors(side // 2, 1, 3), near, strict=True):
        torch.testing.assert_close(read, neighbor[:, :, 1:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(12, 20), (13, 17)])
def test_high_res_keys_read_neighbors_between_pixels(size: tuple[int, int]) -> None:
    maps, weight = torch.randn(2, 4, *size), torch.randn(6, 2, 3, 3)
    key = HighResKey(Map(stored(maps), lambda norm: pytest.fail("no norm")), size, (size[0] / 4, size[1] / 5))
    near = [*high_res_neighbors(maps, (4, 5), 3)]
    for read, neighbor in zip(key.neighbors(1, 5, 9), near, strict=True):
        torch.testing.assert_close(read, neighbor[:, :, 5:9], atol=1e-5, rtol=1e-5)
    if size == (12, 20):
        scale, shift = torch.randn(2, 4), torch.randn(2, 4)
        stacked = torch.stack(near, 2) * scale[:, :, None, None, None] + shift[:, :, None, None, None]
        expected = F.conv2d(stacked.flatten(1, 2), weight.flatten(1)[:, :, None, None], groups=2)
        out = key.dilated(Affine(scale, shift), weight, groups=2)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(12, 20), (13, 17), (3, 9)])
@pytest.mark.parametrize("coarse", [False, True])
def test_low_res_keys_are_normalised_as_if_upsampled_first(size: tuple[int, int], coarse: bool) -> None:
    maps, norm = torch.randn(2, 8, 4, 5) + 3, nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    upsampled = F.interpolate(maps, size=size, mode="nearest-exact") if coarse else up(maps, size)
    (out,) = LowResKey(maps, size, coarse).normalised(norm).neighbors(0, 0, size[0])
    torch.testing.assert_close(out, norm(upsampled), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 3, 9, 17])
def test_sliding_sums_are_convolutions_with_ones(side: int) -> None:
    maps = torch.randn(2, 3, 23, 12)
    expected = F.conv2d(maps, torch.ones(3, 1, side, 1), groups=3)
    torch.testing.assert_close(sliding_sum(maps, side, 2), expected, atol=1e-5, rtol=1e-5)


def test_coarse_neighbors_are_those_of_the_cell() -> None:
    model = make(config=VARIANTS[4])
    feats = torch.randn(1, 6, 3, 4)
    image = torch.rand(1, 3, 12, 16)
    out, taps = model(image, feats, (12, 16)), model.prepare(image, feats, (12, 16)).weights(0, 12)
    y, x = 5, 11  # in cell (1, 2)
    expected = (feats[0, :, 0:3, 1:4].flatten(1) * taps[0, :, y, x]).sum(1)
    torch.testing.assert_close(out[0, :, y, x], expected)


def test_neighbors_outside_the_picture_get_no_weight() -> None:
    selection = make().prepare(torch.rand(1, 3, 24, 24), torch.randn(1, 6, 4, 4), (24, 24))
    taps = selection.weights(0, 24)
    assert taps[0, :3, :6].max() == 0  # a row of low-resolution pixels above
    assert taps[0, [2, 5, 8], :, 18:].max() == 0
    assert taps[0, :, 6:18, 6:18].min() > 0
    model, call = make(), (torch.rand(1, 3, 24, 24), torch.randn(1, 6, 4, 6), (10, 9))
    selection = model.prepare(*call)
    found = selection.inside(0, 10, torch.device("cpu"))
    assert found[1, :, 0].tolist() == [False, False] + [True] * 8  # 2.5 pixels a cell: the centre of row 2 is inside
    assert torch.equal(found, inside((4, 6), (10, 9), 3))
    assert torch.equal(found[:, 3:7], selection.inside(3, 7, torch.device("cpu")))
    torch.testing.assert_close(selection.weights(0, 10), plain_weights(model, *call), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", VARIANTS)
def test_constants_survive(config: ReSFUConfig) -> None:
    feats = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 4, 5)
    out = make(config=config)(torch.rand(1, 3, 30, 41), feats, (30, 41))
    torch.testing.assert_close(out, feats[..., :1, :1].expand_as(out), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("lr_size", "output_size"),
    [((16, 16), (224, 224)), ((7, 9), (100, 131)), ((5, 5), (5, 5)), ((6, 4), (3, 9)), ((1, 1), (9, 8))],
)
@pytest.mark.parametrize("config", [VARIANTS[0], VARIANTS[4]], ids=["fine", "coarse"])
def test_any_output_size_is_met_exactly(
    lr_size: tuple[int, int], output_size: tuple[int, int], config: ReSFUConfig
) -> None:
    out = make(config=config)(torch.rand(1, 3, 50, 70), torch.randn(1, 6, *lr_size), output_size)
    assert tuple(out.shape[2:]) == output_size
    assert out.isfinite().all()


@pytest.mark.parametrize("config", VARIANTS)
def test_bands_have_the_rows_that_are_asked_for_and_continue_anywhere(config: ReSFUConfig) -> None:
    model, image, feats, size = make(config=config), torch.rand(2, 3, 40, 30), torch.randn(2, 6, 4, 6), (35, 23)
    bands = list(model.bands(image, feats, size, rows=4))
    assert [band.shape[2] for band in bands] == [4] * 8 + [3]
    continued = torch.cat(list(model.bands(image, feats, size, rows=5, start=2)), 2)
    torch.testing.assert_close(continued, torch.cat(bands, 2)[:, :, 2:], atol=1e-4, rtol=1e-4)


def test_one_band_is_the_call() -> None:
    model, call = make(), (torch.rand(2, 3, 40, 30), torch.randn(2, 6, 4, 6), (35, 23))
    (band,) = model.bands(*call, rows=35)
    with torch.no_grad():
        assert torch.equal(band, model(*call))


@pytest.mark.parametrize("gradients", [True, False])
def test_whole_results_keep_no_map_that_made_their_weights(gradients: bool) -> None:
    model = make()
    with torch.set_grad_enabled(gradients):
        selection = model.prepare(torch.rand(1, 3, 20, 20), torch.randn(1, 6, 4, 4), (30, 22))
        selection(0, 30)
    assert selection.scores == []


def test_bands_mix_values_in_place_of_the_features() -> None:
    model, image, feats = make(config=replace(TINY, sharpen_lr=0.5)), torch.rand(1, 3, 20, 20), torch.randn(1, 6, 4, 4)
    values = torch.randn(1, 3, 4, 4)
    selection = model.prepare(image, feats, (30, 22), values, whole=False)
    bands = torch.cat([selection(*band).detach() for band in bands_of(30, 7)], 2)
    torch.testing.assert_close(bands, model(image, feats, (30, 22), values), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lr_height", [9, 120], ids=["high ratio", "low ratio"])
def test_every_pass_makes_every_row_of_the_guidance_once(lr_height: int) -> None:
    model = make()
    assert isinstance(model.stem, nn.Sequential)
    made: list[int] = []
    model.stem[-1].register_forward_hook(lambda module, inputs, output: made.append(output.shape[2]))
    for _ in model.bands(torch.rand(1, 3, 600, 30), torch.randn(1, 6, lr_height, 4), (600, 30), 16):
        pass
    # Statistics of the query, of the aligned query and of the compared maps, and the weights.
    assert sum(made) == 4 * 600


def test_memory_of_bands_follows_the_rows_that_are_kept() -> None:
    model = ReSFU(384)
    few, many = (model.band_bytes((1, 384, 256, 256), (4096, 4096), rows) for rows in (1, 101))
    assert few < 400e6
    assert many - few >= 0.9 * 100 * 4096 * 384 * 4
    assert model.band_bytes((1, 384, 512, 256), (8192, 4096), 1) < 1.3 * few  # tokens are twice as many
    assert model.band_bytes((1, 384, 14, 14), (4096, 4096), 1) > few  # neighbours lie further apart


def test_windows_make_rows_once_and_start_again_where_they_are_asked_to() -> None:
    maps, made = torch.randn(1, 2, 50, 3), []

    def make_rows(start: int, stop: int) -> Tensor:
        made.append((start, stop))
        return maps[:, :, start:stop]

    window = Window(make_rows, 50, span=9, chunk=4)
    for start in range(0, 42):
        assert torch.equal(window(start, start + 9), maps[:, :, start : start + 9])
    assert made == [(start, min(start + 4, 50)) for start in range(0, 50, 4)]
    assert torch.equal(window(2, 7), maps[:, :, 2:7])
    assert made[13:] == [(2, 6), (6, 10)]


def test_statistics_keep_their_digits_far_from_zero() -> None:
    maps = torch.randn(2, 8, 9, 11) * torch.linspace(0.01, 1, 8)[:, None, None] + 100
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    expected = F.group_norm(maps.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    (of_groups,) = norms_of([(stored(maps), norm)], 9, 4)
    channels = Moments(pairs=True)
    for start in (0, 4, 8):
        channels.add(maps[:, :, start : start + 4], 8)
    torch.testing.assert_close(of_groups(maps.double()), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(channels.norm(norm)(maps.double()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gradients", [False, True])
def test_statistics_of_a_whole_map_keep_their_digits(gradients: bool) -> None:
    """As those of bands do: 800,000 squares are not added one after the other."""
    maps, norm = torch.randn(1, 16, 224, 224, requires_grad=gradients), nn.GroupNorm(1, 16)
    (of_all,) = norms_of([(stored(maps), norm)], 224, 224)
    scale = maps.detach().double().var(correction=0).add(norm.eps).rsqrt()
    torch.testing.assert_close(of_all.scale, scale.expand(1, 16), atol=0, rtol=1e-6)


def test_eval_repeats_itself() -> None:
    model, call = make(), (torch.rand(1, 3, 20, 20), torch.randn(1, 6, 4, 4), (20, 20))
    assert torch.equal(model(*call), model(*call))


def test_items_of_a_batch_do_not_mix() -> None:
    model, image, feats = make(), torch.rand(3, 3, 20, 22), torch.randn(3, 6, 3, 4)
    with torch.no_grad():
        together = model(image, feats, (20, 22))
        for i in range(3):
            alone = model(image[i : i + 1], feats[i : i + 1], (20, 22))
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", VARIANTS)
def test_gradients_reach_every_parameter_and_the_features(config: ReSFUConfig) -> None:
    model = make(config=config)
    feats = torch.randn(1, 6, 4, 4, requires_grad=True)
    (model(torch.rand(1, 3, 16, 20), feats, (16, 20)) * torch.randn(1, 6, 16, 20)).sum().backward()
    for name, parameter in [*model.named_parameters(), ("feats", feats)]:
        if config.scores == "detail" and name.split(".")[0] in ("norm_x", "k"):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gradients_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUP_KERNELS", "reference")
    config = ReSFUConfig(
        projection=4, groups=2, hidden=8, guidance="features", guidance_channels=3, filter_radius=1, filter_eps=0.1
    )
    model = make(2, config).double()
    names = list(dict(model.named_parameters()))
    guidance, feats = torch.rand(1, 3, 5, 6).double(), torch.randn(1, 2, 2, 2).double()

    def call(guidance: Tensor, feats: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (guidance, feats, (5, 6)))

    inputs = [guidance, feats, *(p.detach() for p in model.parameters())]
    inputs = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True, check_undefined_grad=False)


def test_compiles_without_breaks() -> None:
    model, call = make(), (torch.rand(1, 3, 16, 16), torch.randn(1, 6, 4, 4), (14, 16))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*call), model(*call))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*call), model(*call))


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("gradients", [True, False])
def test_half_precision_stays_close(config: ReSFUConfig, gradients: bool) -> None:
    model = make(config=config)
    image, feats, size = torch.rand(1, 3, 32, 32), torch.randn(1, 6, 8, 8), (32, 30)
    with torch.set_grad_enabled(gradients):
        expected = model(image, feats, size)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            auto = model(image, feats, size)
        cast = model.bfloat16()(image.bfloat16(), feats.bfloat16(), size)
    assert cast.dtype == torch.bfloat16
    for out in (auto, cast):
        assert (out.float() - expected).abs().mean() < 0.1


def test_released_names_and_number_of_parameters() -> None:
    model = ReSFU(384, GUIDED)
    block = ["norm.weight", "norm.bias", "weight", "bias"]
    block += [f"channel_compressor.{i}.{kind}" for i in (1, 3, 4) for kind in ("weight", "bias")]
    expected = [f"{name}.{kind}" for name in ("norm_x", "norm_y", "q", "k") for kind in ("weight", "bias")]
    expected += ["GF.kernel", *(f"{scores}_scores.{name}" for scores in ("semantic", "detail") for name in block)]
    assert sorted(model.state_dict()) == sorted(expected)
    assert sum(p.numel() for p in model.parameters()) == 44_306
    assert model.state_dict()["semantic_scores.weight"].shape == (128, 8, 3, 3)
    assert model.state_dict()["GF.kernel"].eq(1).all()


def test_keys_of_components_serve_any_number_of_channels() -> None:
    model, image = ReSFU(config=VARIANTS[8]).eval(), torch.rand(1, 3, 32, 40)
    for channels in (2, 6, 50):
        assert model(image, torch.randn(1, channels, 4, 5), (23, 31)).shape == (1, channels, 23, 31)
    with pytest.raises(UsageError, match="number of channels"):
        ReSFU(config=TINY)


def test_keys_of_components_do_not_change_when_features_are_rotated() -> None:
    torch.manual_seed(0)
    spread = torch.logspace(0, -3, 12)[:, None, None]
    lr_feats, maps = torch.randn(2, 12, 6, 7) * spread, torch.randn(2, 3, 6, 7)
    rotation = torch.linalg.qr(torch.randn(12, 12)).Q
    turned = torch.einsum("dc,bchw->bdhw", rotation, lr_feats) + 5
    expected = explained_part(maps, lr_feats, 4)
    torch.testing.assert_close(explained_part(maps, turned, 4), expected, rtol=0, atol=1e-3)
    # With as many components as tokens can have, everything is explained.
    torch.testing.assert_close(explained_part(maps, torch.randn(2, 80, 6, 7), 80), maps, rtol=0, atol=1e-4)


def test_components_are_those_of_the_exact_decomposition() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, 90, 30) * torch.logspace(0, -2, 30)
    exact, found = torch.linalg.svd(tokens).U[..., :5], leading_components(tokens, 5)
    torch.testing.assert_close(found @ found.mT, exact @ exact.mT, rtol=0, atol=1e-3)


def test_inner_products_have_no_parameters() -> None:
    model = ReSFU(384, ReSFUConfig(similarity="inner_product", guidance="features"))
    assert not any("scores" in name for name in model.state_dict())


def test_rejects_shapes_and_settings_that_can_not_be() -> None:
    with pytest.raises(ShapeError, match=r"lr_feats must be \[B, 6, h, w\]"):
        make()(torch.rand(1, 3, 8, 8), torch.rand(1, 5, 2, 2), (8, 8))
    with pytest.raises(ShapeError, match=r"guidance must be \[B, 32"):
        make(6, GUIDED)(torch.rand(1, 3, 8, 8), torch.rand(1, 6, 2, 2), (8, 8))
    with pytest.raises(UsageError, match="kernel_size=4"):
        ReSFUConfig(kernel_size=4)
    with pytest.raises(UsageError, match="multiples of groups"):
        ReSFUConfig(groups=5)
