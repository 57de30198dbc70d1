from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.upsamplers.resfu.components import explained_part, leading_components
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.guided_filter import sliding_sum
from featup_cli.upsamplers.resfu.keys import HighResKey, LowResKey
from featup_cli.upsamplers.resfu.rows import Window, bands_of
from featup_cli.upsamplers.resfu.similarity import PCDCBlock, neighbors_inside
from featup_cli.upsamplers.resfu.statistics import ChannelMoments, GroupMoments
from featup_cli.upsamplers.resfu.upsampler import ReSFU

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
    ReSFUConfig(projection=8, hidden=16, guidance_channels=8, filter_radius=2, key="components", key_components=4),
]


def make(channels: int = 6, config: ReSFUConfig = TINY) -> ReSFU:
    """A model whose norms and biases differ from their neutral start."""
    model = ReSFU(channels, config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias") or ".3." in name:
            nn.init.normal_(parameter, 0.5, 0.5)
    return model


def up(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def at_lr_offset(maps: Tensor, lr_size: tuple[int, int], dy: int, dx: int) -> Tensor:
    """A map on the output grid, read low-resolution pixels away; clamped to the outer pixels."""
    height, width = maps.shape[2:]
    y = torch.arange(height) + dy * height / lr_size[0]
    x = torch.arange(width) + dx * width / lr_size[1]
    grid = torch.stack(torch.broadcast_tensors((x + 0.5) / width * 2 - 1, ((y + 0.5) / height * 2 - 1)[:, None]), -1)
    grid = grid.to(maps.dtype).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def plain_guided_filter(query: Tensor, key: Tensor, radius: int, eps: float) -> Tensor:
    half_query, half_key = (F.interpolate(t, scale_factor=0.5, mode="nearest") for t in (query, key))
    channels = query.shape[1]
    kernel = torch.ones(channels, 1, 2 * radius + 1, 2 * radius + 1)
    box = lambda t: F.conv2d(t, kernel, padding=radius, groups=channels)  # noqa: E731
    count = box(torch.ones_like(half_query))
    mean_query, mean_key = box(half_query) / count, box(half_key) / count
    covariance = box(half_query * half_key) / count - mean_query * mean_key
    slope = covariance / (box(half_query**2) / count - mean_query**2 + eps)
    offset = mean_key - slope * mean_query
    size = tuple(query.shape[2:])
    return up(box(slope) / count, size) * query + up(box(offset) / count, size)


def plain_pcdc(block: PCDCBlock, query: Tensor, key: Tensor, ratio: tuple[int, int]) -> Tensor:
    query, key = block.norm(query), block.norm(key)
    k = block.weight.shape[-1]
    reach = [k // 2 * r for r in ratio]
    padded = F.pad(key, (reach[1], reach[1], reach[0], reach[0]), mode="replicate")
    maps = F.conv2d(padded, block.weight, block.bias, dilation=ratio, groups=block.groups)
    maps = maps - F.conv2d(query, block.weight.sum((2, 3), keepdim=True), groups=block.groups)
    _, mix, _, norm, last = block.channel_compressor
    return last(norm(F.relu(mix(F.relu(maps)))))


def plain_resfu(model: ReSFU, guidance: Tensor, feats: Tensor, ratio: tuple[int, int]) -> Tensor:
    """The upsampler from its description, for whole ratios: every map at full size, windows by dilation."""
    c = model.config
    size = feats.shape[2] * ratio[0], feats.shape[3] * ratio[1]
    query, key = model.q(model.norm_y(guidance)), up(model.k(model.norm_x(feats)), size)
    y = torch.tensor([-1.0, 0.0, 1.0])
    gaussian = (-(y[:, None] ** 2 + y**2) / 2).exp()
    gaussian = (gaussian / gaussian.sum()).expand(c.projection, 1, 3, 3)
    smooth = F.conv2d(F.pad(query, (1, 1, 1, 1), mode="replicate"), gaussian, groups=c.projection)
    smooth = smooth if c.smoothed_key else query
    aligned = plain_guided_filter(query, key, c.filter_radius, c.filter_eps) if c.guided_query else query
    radius = c.kernel_size // 2
    offsets = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    scores = torch.zeros(())
    for block, q, k in ((model.semantic_scores, aligned, key), (model.detail_scores, query, smooth)):
        if isinstance(block, PCDCBlock):
            scores = scores + plain_pcdc(block, q, k, ratio)
        elif block is not None:
            near = [at_lr_offset(k, tuple(feats.shape[2:]), *offset) for offset in offsets]
            scores = scores + torch.stack([(q * n).sum(1) for n in near], 1)
    inside = F.pad(torch.ones(1, 1, *size), (radius * ratio[1],) * 2 + (radius * ratio[0],) * 2)
    inside = torch.stack(
        [
            inside[0, 0, (radius + dy) * ratio[0] :, (radius + dx) * ratio[1] :][: size[0], : size[1]]
            for dy, dx in offsets
        ]
    )
    taps = (scores - 1e7 * (1 - inside)).softmax(1)
    values = up(feats, size)
    near = torch.stack([at_lr_offset(values, tuple(feats.shape[2:]), *offset) for offset in offsets], 2)
    return (taps[:, None] * near).sum(2)


@pytest.mark.parametrize("gradients", [True, False], ids=["whole", "banded"])
@pytest.mark.parametrize(
    ("config", "ratio"),
    [
        (GUIDED, (4, 4)),
        (GUIDED, (3, 2)),
        (ReSFUConfig(kernel_size=5, groups=2, guidance="features"), (4, 4)),
        (ReSFUConfig(guided_query=False, smoothed_key=False, guidance="features"), (2, 2)),
        (ReSFUConfig(similarity="inner_product", guidance="features"), (2, 4)),
        (ReSFUConfig(scores="semantic", guidance="features"), (4, 4)),
        (ReSFUConfig(scores="detail", guidance="features"), (4, 4)),
    ],
)
def test_matches_the_plain_formulation(
    config: ReSFUConfig, ratio: tuple[int, int], gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featup_cli.upsamplers.resfu.plan._CPU_PIXELS", 60)
    model = make(64, config)
    feats = torch.randn(2, 64, 5, 7)
    guidance = torch.randn(2, 32, 5 * ratio[0], 7 * ratio[1])
    with torch.set_grad_enabled(gradients):
        out = model(guidance, feats, tuple(guidance.shape[2:]))
    torch.testing.assert_close(out, plain_resfu(model, guidance, feats, ratio), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(12, 20), (13, 17), (30, 8), (3, 4)])
@pytest.mark.parametrize("side", [3, 5])
def test_low_res_keys_convolve_with_neighbors_read_from_the_low_resolution(size: tuple[int, int], side: int) -> None:
    maps, weight, bias = torch.randn(2, 4, 4, 6), torch.randn(6, 2, side, side), torch.randn(6)
    y = (torch.arange(size[0]) + 0.5) / size[0] * 2 - 1
    x = (torch.arange(size[1]) + 0.5) / size[1] * 2 - 1
    near = []
    for t in range(side * side):
        dy, dx = t // side - side // 2, t % side - side // 2
        grid = torch.stack(torch.broadcast_tensors(x + 2 * dx / 6, (y + 2 * dy / 4)[:, None]), -1)
        near.append(F.grid_sample(maps, grid.expand(2, -1, -1, -1), padding_mode="border", align_corners=False))
    expected = F.conv2d(torch.stack(near, 2).flatten(1, 2), weight.flatten(1)[:, :, None, None], bias, groups=2)
    key = LowResKey(maps, size)
    torch.testing.assert_close(key.convolved(weight, bias, groups=2), expected, atol=1e-5, rtol=1e-5)
    rows = key.convolved_rows(weight, bias.expand(2, -1), groups=2, chunk=2)
    out = torch.cat([rows(*band) for band in bands_of(size[0], 2)], 2)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(key.neighbor(0, 1, 1, 3), near[side * side // 2 + 1][:, :, 1:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(key.neighbor(0, 1), near[side * side // 2 + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(12, 20), (13, 17)])
def test_high_res_keys_read_neighbors_between_pixels(size: tuple[int, int]) -> None:
    maps, weight, bias = torch.randn(2, 4, *size), torch.randn(6, 2, 3, 3), torch.randn(6)
    key = HighResKey.of(maps, (size[0] / 4, size[1] / 5))
    near = [at_lr_offset(maps, (4, 5), dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    torch.testing.assert_close(key.neighbor(-1, 1), near[2], atol=1e-5, rtol=1e-5)
    expected = F.conv2d(torch.stack(near, 2).flatten(1, 2), weight.flatten(1)[:, :, None, None], bias, groups=2)
    torch.testing.assert_close(key.convolved(weight, bias, groups=2), expected, atol=1e-5, rtol=1e-5)
    for read, neighbor in zip(key.neighbors(1, 5, 9), near, strict=True):
        torch.testing.assert_close(read, neighbor[:, :, 5:9], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(12, 20), (13, 17), (3, 9)])
@pytest.mark.parametrize("coarse", [False, True])
def test_low_res_keys_are_normalised_as_if_upsampled_first(size: tuple[int, int], coarse: bool) -> None:
    maps, norm = torch.randn(2, 8, 4, 5) + 3, nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    upsampled = F.interpolate(maps, size=size, mode="nearest-exact") if coarse else up(maps, size)
    out = LowResKey(maps, size, coarse).normalised(norm)
    torch.testing.assert_close(out.neighbor(0, 0), norm(upsampled), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 3, 9, 17])
def test_sliding_sums_are_convolutions_with_ones(side: int) -> None:
    maps = torch.randn(2, 3, 23, 12)
    expected = F.conv2d(maps, torch.ones(3, 1, side, 1), groups=3)
    torch.testing.assert_close(sliding_sum(maps, side, 2), expected, atol=1e-5, rtol=1e-5)


def test_coarse_neighbors_are_those_of_the_cell() -> None:
    model = make(config=VARIANTS[4])
    feats = torch.randn(1, 6, 3, 4)
    image = torch.rand(1, 3, 12, 16)
    out, taps = model(image, feats, (12, 16)), model.taps_of(image, feats, (12, 16))
    y, x = 5, 11  # in cell (1, 2)
    expected = (feats[0, :, 0:3, 1:4].flatten(1) * taps[0, :, y, x]).sum(1)
    torch.testing.assert_close(out[0, :, y, x], expected)


def test_neighbors_outside_the_picture_get_no_weight() -> None:
    model = make()
    taps = model.taps_of(torch.rand(1, 3, 24, 24), torch.randn(1, 6, 4, 4), (24, 24))
    assert taps[0, :3, :6].max() == 0  # a row of low-resolution pixels above
    assert taps[0, [2, 5, 8], :, 18:].max() == 0
    assert taps[0, :, 6:18, 6:18].min() > 0
    inside = neighbors_inside(3, (4, 6), (10, 9), torch.device("cpu"))
    assert inside[1, :, 0].tolist() == [False, False] + [True] * 8  # 2.5 pixels a cell: the centre of row 2 is inside
    assert inside[4].all()


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


@pytest.mark.parametrize("size", [(16, 24), (17, 23)])
@pytest.mark.parametrize("config", VARIANTS)
def test_without_gradients_the_result_is_the_same(
    config: ReSFUConfig, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featup_cli.upsamplers.resfu.plan._CPU_PIXELS", 72)
    # In float64, where rounding does not hide a difference.
    model, image = make(config=config).double(), torch.rand(2, 3, 40, 40, dtype=torch.float64)
    feats = torch.randn(2, 6, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        banded = model(image, feats, size)
    torch.testing.assert_close(banded, model(image, feats, size), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("size", [(16, 24), (35, 23), (3, 4)])
@pytest.mark.parametrize("config", VARIANTS)
def test_bands_equal_the_whole(config: ReSFUConfig, size: tuple[int, int]) -> None:
    model, image, feats = make(config=config), torch.rand(2, 3, 40, 30), torch.randn(2, 6, 4, 6)
    whole = model(image, feats, size)
    bands = list(model.bands(image, feats, size, rows=5))
    assert [band.shape[2] for band in bands] == [min(5, size[0] - top) for top in range(0, size[0], 5)]
    torch.testing.assert_close(torch.cat(bands, 2), whole, atol=1e-4, rtol=1e-4)
    continued = torch.cat(list(model.bands(image, feats, size, rows=4, start=2)), 2)
    torch.testing.assert_close(continued, whole[:, :, 2:], atol=1e-4, rtol=1e-4)


def test_bands_mix_values_in_place_of_the_features() -> None:
    model, image, feats = make(config=replace(TINY, sharpen_lr=0.5)), torch.rand(1, 3, 20, 20), torch.randn(1, 6, 4, 4)
    values = torch.randn(1, 3, 4, 4)
    bands = torch.cat(list(model.bands(image, feats, (30, 22), 7, values=values)), 2)
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
    assert model.band_bytes((1, 384, 512, 256), (8192, 4096), 1) < 1.25 * few  # tokens are twice as many
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
    groups, channels = GroupMoments(norm), ChannelMoments()
    for start in (0, 4, 8):
        groups.add(maps[:, :, start : start + 4])
        channels.add(maps[:, :, start : start + 4])
    torch.testing.assert_close(groups.affine()(maps.double()), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(channels.affine(norm)(maps.double()), expected, atol=1e-4, rtol=1e-4)


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
    model, image = ReSFU(config=VARIANTS[-1]).eval(), torch.rand(1, 3, 32, 40)
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
