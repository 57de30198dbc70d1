from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.errors import ShapeError, UsageError
from featup_cli.upsamplers.guidance import resize_guidance
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.plan import basis_is_cheaper, grid_sizes
from featup_cli.upsamplers.jbu.released import IMAGENET_MEAN, IMAGENET_STD, ReleasedJBU
from featup_cli.upsamplers.jbu.stage import Band, JBUStage
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler

PAPER = JBUConfig(
    radius=1, key_size=4, unit_keys=False, temperature=1.0, temperature_growth=1.0, sharpen_lr=0.0, sharpen_lr_wide=0.0
)
SMALL = PAPER
VARIANTS = [
    replace(PAPER, radius=2, key_size=5),
    replace(PAPER, mlp=False, resize="nearest"),
    replace(PAPER, mlp=False, range_kernel="euclidean", temperature=30.0, resize="bilinear"),
    replace(PAPER, range_kernel="cosine", temperature=30.0),
    replace(PAPER, radius=2, sharpen_lr=0.7, sharpen_lr_wide=-0.4, contrast=0.3),
    JBUConfig(radius=2, key_size=6),
]


def make(config: JBUConfig = SMALL) -> JBUUpsampler:
    """A model whose learned widths differ from their neutral start."""
    model = JBUUpsampler(config).eval()
    for stage in model.stages:
        nn.init.constant_(stage.range_temp, 0.4 + math.log(config.temperature))
        nn.init.constant_(stage.sigma_spatial, 0.8)
    return model


def cell_mean(image: Tensor, size: tuple[int, int]) -> Tensor:
    batch, channels, height, width = image.shape
    return image.view(batch, channels, size[0], height // size[0], size[1], width // size[1]).mean((3, 5))


def plain_stage(stage: JBUStage, guidance: Tensor, source: Tensor, resize: str, coarseness: int = 0) -> Tensor:
    """One stage from its description: unfold the windows, weigh, normalise, sum."""
    radius = stage.radius
    k = 2 * radius + 1
    batch, _, height, width = guidance.shape

    def windows(maps: Tensor) -> Tensor:
        padded = F.pad(maps, (radius,) * 4, mode="reflect")
        return F.unfold(padded, k).view(batch, maps.shape[1], k * k, height, width)

    keys = guidance
    if isinstance(stage.range_proj, nn.Sequential):
        first, last = stage.range_proj[0], stage.range_proj[3]
        hidden = F.gelu(torch.einsum("oi,bihw->bohw", first.weight[..., 0, 0], guidance) + first.bias.view(-1, 1, 1))
        keys = torch.einsum("oi,bihw->bohw", last.weight[..., 0, 0], hidden) + last.bias.view(-1, 1, 1)
    temperature = stage.range_temp.exp() * stage.temperature_growth**coarseness
    if stage.unit_keys:
        keys, temperature = keys / torch.linalg.vector_norm(keys, dim=1, keepdim=True), 4 * temperature
    near = windows(keys)
    if stage.range_kernel == "inner_product":
        similar = (temperature * (near * keys[:, :, None]).sum(1)).softmax(1)
    elif stage.range_kernel == "euclidean":
        similar = (-temperature / 2 * torch.linalg.vector_norm(near - keys[:, :, None], dim=1) ** 2).exp()
    else:
        similar = (-temperature / 2 * (1 - F.cosine_similarity(near, keys[:, :, None], dim=1)) ** 2).exp()
    axis = torch.linspace(-1, 1, k, dtype=keys.dtype)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    spatial = (-(y**2 + x**2) / (2 * stage.sigma_spatial**2)).exp().view(-1, 1, 1)
    taps = similar * spatial
    taps = taps / taps.sum(1, keepdim=True)
    if stage.contrast is not None:
        taps = (1 + stage.contrast) * taps - stage.contrast * spatial / spatial.sum()
    if hasattr(stage, "fixup_proj"):
        taps = taps + 0.1 * stage.fixup_proj(torch.cat((taps, guidance), 1))
    mode, corners = ("nearest-exact", None) if resize == "nearest" else (resize, False)
    resized = F.interpolate(source, size=(height, width), mode=mode, align_corners=corners)
    return (windows(resized) * taps[:, None]).sum(2)


@pytest.mark.parametrize("config", VARIANTS)
def test_matches_the_plain_formulation(config: JBUConfig) -> None:
    model = make(config).double()  # in float32 a sharp kernel turns rounding of the keys into 1e-4 of the weights
    image, feats = torch.rand(2, 3, 48, 64).double(), torch.randn(2, 3, 6, 8).double()
    expected = feats
    if config.sharpen_lr:
        kernel = torch.tensor([1.0, 2.0, 1.0]).double()
        kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
        blurred = [feats]
        for _ in range(3):
            blurred.append(F.conv2d(F.pad(blurred[-1], (1, 1, 1, 1), mode="replicate"), kernel, groups=3))
        expected = feats + config.sharpen_lr * (feats - blurred[1])
        expected = expected + config.sharpen_lr_wide * (blurred[1] - blurred[3])
    for coarseness, size in ((1, (12, 16)), (0, (24, 32))):
        expected = plain_stage(model.stages[0], cell_mean(image, size), expected, config.resize, coarseness)
    with torch.no_grad():  # resized while it is filtered
        fused = model(image, feats, (24, 32))
    for out in (model(image, feats, (24, 32)), fused, torch.cat(list(model.bands(image, feats, (24, 32), 5)), 2)):
        torch.testing.assert_close(out, expected, atol=1e-7, rtol=1e-7)  # strengths are stored in float32


def test_before_training_the_kernel_is_the_classical_gaussian_of_colours() -> None:
    sigma = 0.05
    image = torch.rand(1, 3, 24, 24) * 0.3 + 0.35
    classical = replace(PAPER, radius=3, mlp=False, range_kernel="euclidean", temperature=1 / sigma**2)
    configs = (JBUConfig(temperature=1 / sigma**2), classical)
    taps, expected = (JBUStage(config)(image, Band((24, 24), 0, 24, 3)) for config in configs)
    torch.testing.assert_close(taps, expected, atol=0.02, rtol=0)


def test_separate_stages_have_their_own_parameters() -> None:
    model = make(replace(PAPER, stages=2, shared=False))
    image, feats = torch.rand(1, 3, 16, 16), torch.randn(1, 2, 4, 4)
    expected = feats
    for stage, size in zip(model.stages, ((8, 8), (16, 16)), strict=True):
        expected = plain_stage(stage, cell_mean(image, size), expected, "bicubic")
    torch.testing.assert_close(model(image, feats, (16, 16)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", VARIANTS)
def test_constants_survive(config: JBUConfig) -> None:
    feats = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 5, 4)
    out = make(config)(torch.rand(1, 3, 40, 32), feats, (37, 30))
    torch.testing.assert_close(out, feats[..., :1, :1].expand_as(out), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("lr_size", "output_size"),
    [((16, 16), (224, 224)), ((7, 9), (100, 131)), ((5, 5), (5, 5)), ((6, 4), (3, 9)), ((1, 1), (8, 8))],
)
def test_any_output_size_is_met_exactly(lr_size: tuple[int, int], output_size: tuple[int, int]) -> None:
    out = make()(torch.rand(1, 3, 50, 70), torch.randn(1, 2, *lr_size), output_size)
    assert tuple(out.shape[2:]) == output_size
    assert out.isfinite().all()


def test_grids_double_and_end_at_the_output() -> None:
    assert grid_sizes((14, 14), (224, 224)) == [(28, 28), (56, 56), (112, 112), (224, 224)]
    sizes = grid_sizes((16, 16), (224, 224))
    assert len(sizes) == 4
    assert sizes[-1] == (224, 224)
    assert all(a[0] < b[0] <= 2 * a[0] for a, b in pairwise([(16, 16), *sizes]))
    assert grid_sizes((8, 6), (8, 6)) == [(8, 6)]
    assert grid_sizes((4, 4), (64, 32), stages=2) == [(16, 11), (64, 32)]


def test_guidance_is_averaged_where_it_shrinks_and_interpolated_where_it_grows() -> None:
    image = torch.rand(1, 3, 12, 4)
    expected = F.interpolate(cell_mean(image, (6, 4)), size=(6, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize_guidance(image, (6, 8)), expected)


def test_is_linear_in_the_features_and_treats_channels_alike() -> None:
    model, image = make(VARIANTS[-1]), torch.rand(1, 3, 32, 32)
    a, b = torch.randn(2, 1, 3, 4, 5)
    upsample = lambda feats: model(image, feats, (13, 20))  # noqa: E731
    torch.testing.assert_close(upsample(2 * a - 3 * b), 2 * upsample(a) - 3 * upsample(b), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(upsample(a[:, [2, 0, 1]]), upsample(a)[:, [2, 0, 1]], atol=1e-6, rtol=0)


def test_the_basis_path_equals_the_direct_path() -> None:
    model, image, feats = make(VARIANTS[-1]), torch.rand(2, 3, 32, 32), torch.randn(2, 60, 2, 3)
    sizes, window = grid_sizes((2, 3), (17, 20)), (2 * model.config.radius + 1) ** 2
    assert basis_is_cheaper(60, 6, window, sizes)
    assert not basis_is_cheaper(5, 6, window, sizes)
    direct = torch.cat([model(image, part, (17, 20)) for part in feats.split(5, 1)], 1)
    torch.testing.assert_close(model(image, feats, (17, 20)), direct, atol=1e-5, rtol=1e-5)


def test_chunks_of_channels_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUP_KERNELS", "reference")  # the others take all channels at once
    model, image, feats = make(), torch.rand(1, 3, 32, 32), torch.randn(1, 37, 8, 8)
    with torch.no_grad():
        in_chunks = model(image, feats, (31, 29))
    torch.testing.assert_close(in_chunks, model(image, feats, (31, 29)), atol=1e-6, rtol=0)


def test_eval_repeats_itself_and_training_drops_channels() -> None:
    model = make(replace(PAPER, key_size=8, dropout=0.5))
    call = (torch.rand(1, 3, 16, 16), torch.randn(1, 2, 4, 4), (16, 16))
    assert torch.equal(model(*call), model(*call))
    model.train()
    assert not torch.equal(model(*call), model(*call))


@pytest.mark.parametrize("config", VARIANTS)
def test_gradients_reach_every_parameter_and_the_features(config: JBUConfig) -> None:
    model = make(config)
    feats = torch.randn(1, 2, 4, 4, requires_grad=True)
    (model(torch.rand(1, 3, 16, 16), feats, (16, 16)) * torch.randn(1, 2, 16, 16)).sum().backward()
    for name, parameter in [*model.named_parameters(), ("feats", feats)]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "config", [VARIANTS[2], replace(PAPER, key_size=2, sharpen_lr=0.5, contrast=0.2), VARIANTS[-1]]
)
def test_gradients_are_right(config: JBUConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUP_KERNELS", "reference")
    model = make(config).double()
    image, feats = torch.rand(1, 3, 3, 4).double(), torch.randn(1, 1, 2, 2).double()
    names = list(dict(model.named_parameters()))

    def call(image: Tensor, feats: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, named, (image, feats, (3, 4)))

    inputs = [image, feats, *(p.detach() for p in model.parameters())]
    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in inputs])


def test_compiles_without_breaks() -> None:
    model = make()
    call = (torch.rand(1, 3, 16, 16), torch.randn(1, 2, 4, 4), (14, 15))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*call), model(*call))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*call), model(*call))


@pytest.mark.parametrize("config", VARIANTS)
def test_half_precision_stays_close(config: JBUConfig) -> None:
    model = make(config)
    image, feats, size = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 8, 8), (32, 30)
    with torch.no_grad():
        expected = model(image, feats, size)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            auto = model(image, feats, size)
        cast = model.bfloat16()(image.bfloat16(), feats.bfloat16(), size)
    assert cast.dtype == torch.bfloat16
    for out in (auto, cast):
        torch.testing.assert_close(out.float(), expected, atol=0.15, rtol=0.05)


def test_features_in_half_precision_pass_through_float_weights() -> None:
    model, image, feats = make(), torch.rand(1, 3, 16, 16), torch.randn(1, 2, 4, 4)
    out = model(image, feats.half(), (16, 16))
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), model(image, feats, (16, 16)), atol=0.02, rtol=0.01)


def test_items_of_a_batch_do_not_mix() -> None:
    model, image, feats = make(), torch.rand(3, 3, 20, 20), torch.randn(3, 12, 3, 3)
    together = model(image, feats, (20, 20))
    for i in range(3):
        alone = model(image[i : i + 1], feats[i : i + 1], (20, 20))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)


def test_contrast_gives_negative_weights_that_sum_to_one() -> None:
    model = make(replace(PAPER, mlp=False, range_kernel="euclidean", temperature=500.0, contrast=0.5))
    taps = model.stages[0](torch.rand(1, 3, 16, 16), Band((16, 16), 0, 16, 1))
    assert taps.min() < 0
    torch.testing.assert_close(taps.sum(1), torch.ones(1, 16, 16))


def test_rejects_shapes_and_settings_that_can_not_be() -> None:
    with pytest.raises(ShapeError, match="image must be"):
        make()(torch.rand(1, 4, 8, 8), torch.rand(1, 2, 2, 2), (8, 8))
    with pytest.raises(UsageError, match="separate parameters"):
        JBUConfig(shared=False)
    with pytest.raises(UsageError, match="radius=0"):
        JBUConfig(radius=0)


def make_released(channels: int) -> ReleasedJBU:
    model = ReleasedJBU(channels).eval()
    for stage in (model.up1, model.up2, model.up3, model.up4):
        nn.init.constant_(stage.range_temp, 0.4)
        nn.init.constant_(stage.sigma_spatial, 0.8)
    return model


def test_released_matches_the_plain_formulation() -> None:
    model = make_released(5)
    image, feats = torch.rand(2, 3, 64, 128), torch.randn(2, 5, 2, 4)
    normalised = (image - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    expected, size = feats, (2, 4)
    for stage in (model.up1, model.up2, model.up3, model.up4):
        size = size[0] * 2, size[1] * 2
        guidance = F.adaptive_avg_pool2d(normalised, size)
        # The first stage's grid is 4 pixels high: the least that a 7x7 window can be reflected in.
        expected = plain_stage(stage, guidance, expected, "bicubic")
    expected = expected + 0.1 * model.fixup_proj(expected)
    out = model(image, feats, (32, 64))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    other = F.interpolate(expected, size=(28, 60), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(image, feats, (28, 60)), other, atol=1e-5, rtol=1e-5)


def test_released_has_the_names_and_shapes_of_the_official_checkpoints() -> None:
    stage = {
        "range_temp": (),
        "sigma_spatial": (),
        "range_proj.0.weight": (32, 3, 1, 1),
        "range_proj.0.bias": (32,),
        "range_proj.3.weight": (32, 32, 1, 1),
        "range_proj.3.bias": (32,),
        "fixup_proj.0.weight": (49, 52, 1, 1),
        "fixup_proj.0.bias": (49,),
        "fixup_proj.3.weight": (49, 49, 1, 1),
        "fixup_proj.3.bias": (49,),
    }
    expected = {f"up{i}.{name}": shape for i in range(1, 5) for name, shape in stage.items()}
    expected |= {"fixup_proj.1.weight": (384, 384, 1, 1), "fixup_proj.1.bias": (384,)}
    model = ReleasedJBU(384)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) == 172_772


def test_released_is_differentiable_in_every_parameter() -> None:
    model = make_released(3).train()
    model(torch.rand(1, 3, 64, 64), torch.randn(1, 3, 4, 4), (64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
