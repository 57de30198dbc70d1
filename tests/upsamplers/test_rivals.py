"""The rivals that the papers name: their formulas by explicit loops, and what holds for all."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from featup_cli.core.errors import UsageError
from featup_cli.training.config import TrainConfig
from featup_cli.training.model import MultiViewModel
from featup_cli.upsamplers.baselines.a2u import A2U
from featup_cli.upsamplers.baselines.dgf import DGF
from featup_cli.upsamplers.baselines.dysample import DySample
from featup_cli.upsamplers.baselines.indexnet import IndexNet
from featup_cli.upsamplers.baselines.local import IFA, LIIF
from featup_cli.upsamplers.baselines.pac import PAC
from featup_cli.upsamplers.interpolation.upsampler import Interpolation
from featup_cli.upsamplers.registry import TRAINABLE
from featup_cli.upsamplers.weights.file import build_upsampler
from tests.upsamplers.rivals import CHANNELS, IMAGE, SMALL, around, away_from_start, make_batch, pixel

LOCAL = ["liif", "ifa"]
CONVOLUTIONS = ["pixelshuffle", "deconv", "resize-conv"]
MIXERS = ["pac", "indexnet", "a2u"]
RIVALS = [*LOCAL, *MIXERS, "dgf"]

FORMS = [(method, False) for method in RIVALS] + [(name, True) for name, method in TRAINABLE.items() if method.printed]


def small(method: str, **config: object) -> nn.Module:
    return away_from_start(build_upsampler(method, {"channels": CHANNELS, **SMALL.get(method, {}), **config}))


@pytest.mark.parametrize(("method", "printed"), FORMS)
@pytest.mark.parametrize(
    ("lr_size", "output_size"), [((4, 5), (37, 45)), ((3, 7), (20, 30)), ((2, 2), (32, 32)), ((6, 4), (3, 9))]
)
def test_any_output_size_is_met_exactly_in_bands_too(
    method: str, printed: bool, lr_size: tuple[int, int], output_size: tuple[int, int]
) -> None:
    model = small(method, **(TRAINABLE[method].printed if printed else {})).double()
    lr_feats = torch.randn(2, CHANNELS, *lr_size).double()
    with torch.no_grad():
        out = model(IMAGE.double(), lr_feats, output_size)
    assert out.shape == (2, CHANNELS, *output_size)
    assert out.isfinite().all()
    bands = torch.cat(list(model.bands(IMAGE.double(), lr_feats, output_size, 7)), 2)  # type: ignore[operator]
    torch.testing.assert_close(bands, out, atol=1e-9, rtol=0)
    assert model.band_bytes(lr_feats.shape, output_size, 7) > 4 * out.numel() // 8  # type: ignore[operator]


@pytest.mark.parametrize(("method", "printed"), FORMS)
def test_gradients_are_those_of_finite_differences(method: str, printed: bool) -> None:
    model = small(method, **(TRAINABLE[method].printed if printed else {})).double()
    names, parameters = zip(*model.named_parameters(), strict=True)
    lr_feats = torch.randn(1, CHANNELS, 2, 3, dtype=torch.float64, requires_grad=True)

    def call(lr_feats: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, state, (IMAGE[:1].double(), lr_feats, (5, 7)))

    assert torch.autograd.gradcheck(call, (lr_feats, *parameters), fast_mode=True)


@pytest.mark.parametrize(("method", "printed"), FORMS)
def test_a_training_lowers_the_loss_below_that_of_its_start(method: str, printed: bool) -> None:
    torch.manual_seed(1)
    config = {"channels": CHANNELS, **SMALL.get(method, {}), **(TRAINABLE[method].printed if printed else {})}
    settings = TrainConfig(uncertainty=False, learn_downsampler=False, pixels_per_token=4, projection=0)
    model, batch = MultiViewModel(build_upsampler(method, config), CHANNELS, settings), make_batch()
    optimizer = torch.optim.Adam(model.upsampler.parameters(), lr=5e-4)
    losses = []
    for _ in range(6):
        loss = model(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", LOCAL)
def test_an_untrained_field_is_bilinear_interpolation(method: str) -> None:
    lr_feats = torch.randn(2, CHANNELS, 4, 5)
    with torch.no_grad():
        out = build_upsampler(method, {"channels": CHANNELS})(IMAGE, lr_feats, (13, 21))
    torch.testing.assert_close(out, Interpolation("bilinear")(IMAGE, lr_feats, (13, 21)))


def place(index: int, size: int, cells: int) -> float:
    """A pixel's centre among tokens, whose centres have whole numbers."""
    return (index + 0.5) * cells / size - 0.5


def perceptron(layers: nn.Module, value: Tensor) -> Tensor:
    return layers(value[None, :, None, None])[0, :, 0, 0]


@pytest.mark.parametrize(("unfold", "cell"), [(True, True), (False, False)])
def test_liif_weighs_the_network_at_four_tokens_by_the_areas_opposite(unfold: bool, cell: bool) -> None:
    model = small("liif", residual=False, unfold=unfold, cell=cell).double()
    assert isinstance(model, LIIF)
    lr_feats, size = torch.randn(1, CHANNELS, 2, 3).double(), (5, 7)
    first = torch.cat((model.tokens.weight.flatten(1), model.place.weight.flatten(1)), 1)
    with torch.no_grad():
        out = model(IMAGE[:1].double(), lr_feats, size)
        tokens = model.norm(lr_feats)[0]
        padded = nn.functional.pad(tokens, (1, 1, 1, 1))  # zeros outside, as in the paper
        for y in range(size[0]):
            for x in range(size[1]):
                at = torch.tensor([place(y, size[0], 2), place(x, size[1], 3)], dtype=torch.float64)
                values, areas = [], []
                for dy in (0, 1):
                    for dx in (0, 1):
                        row, column = min(max(math.floor(at[0]) + dy, 0), 1), min(max(math.floor(at[1]) + dx, 0), 2)
                        offset = 2 * (at - torch.tensor([row, column]))
                        seen = padded[:, row : row + 3, column : column + 3] if unfold else tokens[:, row, column]
                        sides = [4 / size[0], 6 / size[1]] if cell else []
                        inputs = torch.cat((seen.flatten(), offset, torch.tensor(sides, dtype=torch.float64)))
                        hidden = first @ inputs + model.tokens.get_parameter("bias")
                        values.append(perceptron(model.head, perceptron(model.layers, hidden)))
                        areas.append(offset.prod().abs() + 1e-12)
                weights = torch.stack(areas[::-1]) / sum(areas)  # of the token diagonally opposite
                torch.testing.assert_close(out[0, :, y, x], weights @ torch.stack(values))


def test_ifa_evaluates_the_network_at_the_nearest_token_and_the_encoded_offset() -> None:
    model = small("ifa", residual=False).double()
    assert isinstance(model, IFA)
    lr_feats, size = torch.randn(1, CHANNELS, 2, 3).double(), (5, 7)
    first = torch.cat((model.tokens.weight.flatten(1), model.place.weight.flatten(1)), 1)
    with torch.no_grad():
        out = model(IMAGE[:1].double(), lr_feats, size)
        tokens = model.compress(model.norm(lr_feats))[0].relu()
        for y in range(size[0]):
            for x in range(size[1]):
                at = torch.tensor([place(y, size[0], 2), place(x, size[1], 3)], dtype=torch.float64)
                nearest = (at + 0.5).floor()
                offset = 2 * (at - nearest)
                encoded = [offset, (model.frequencies @ offset).sin(), (model.frequencies @ offset).cos()]
                inputs = torch.cat((pixel(tokens, int(nearest[0]), int(nearest[1])), *encoded))
                hidden = perceptron(model.layers, first @ inputs + model.tokens.get_parameter("bias"))
                torch.testing.assert_close(out[0, :, y, x], perceptron(model.head, hidden))


def test_ifa_starts_with_frequencies_that_are_powers_of_two() -> None:
    model = build_upsampler("ifa", {"channels": CHANNELS})
    expected = 2.0 ** torch.tensor([0, 1.2, 2.4, 3.6, 4.8, 6])
    torch.testing.assert_close(model.get_parameter("frequencies")[:6, 0].detach(), expected)


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("full", [True, False])
def test_pac_convolves_by_the_likeness_of_guidance(full: bool, side: int) -> None:
    model = small("pac", full=full, kernel_size=side).double()
    assert isinstance(model, PAC)
    lr_feats, image = torch.randn(1, CHANNELS, 3, 4).double(), torch.rand(1, 3, 6, 8).double()
    reach = side // 2
    with torch.no_grad():
        out = model(image, lr_feats, (6, 8))[0]
        guidance = model.stem(image)[0]
        for y in range(6):
            for x in range(8):
                total, kernels = torch.zeros(CHANNELS).double(), 0.0
                # Over the new grid, and beyond it: where the border repeats, old pixels lie there too.
                for v in range(y - reach, y + reach + 1):
                    for u in range(x - reach, x + reach + 1):
                        if v % 2 or u % 2:
                            continue
                        old = min(max(v, 0), 4), min(max(u, 0), 6)
                        if full and old != (v, u):
                            continue  # zeros
                        likeness = (-(guidance[:, y, x] - guidance[:, old[0], old[1]]).square().sum() / 2).exp()
                        place = v - y + reach, u - x + reach
                        value = lr_feats[0, :, old[0] // 2, old[1] // 2]
                        if full:
                            total += likeness * model.weight[place] @ value
                        else:
                            kernel = likeness * model.spatial.view(side, side)[place].exp()
                            total, kernels = total + kernel * value, kernels + kernel
                expected = total + model.bias if full else total / kernels
                torch.testing.assert_close(out[:, y, x], expected)


@pytest.mark.parametrize("full", [True, False])
def test_pac_of_a_plain_picture_starts_as_bilinear_interpolation(full: bool) -> None:
    lr_feats, image = torch.randn(1, CHANNELS, 4, 5), torch.full((1, 3, 8, 10), 0.5)
    with torch.no_grad():
        out = build_upsampler("pac", {"channels": CHANNELS, "full": full})(image, lr_feats, (8, 10))
    expected = Interpolation("bilinear")(image, lr_feats, (8, 10))
    torch.testing.assert_close(out[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=0.05, rtol=0)


def test_dgf_fits_channels_by_linear_functions_of_learned_guidance() -> None:
    model = small("dgf").double()
    assert isinstance(model, DGF)
    lr_feats, image, size = torch.randn(1, CHANNELS, 3, 4).double() + 5, torch.rand(1, 3, 12, 16).double(), (12, 16)
    with torch.no_grad():
        out = model(image, lr_feats, size)[0]
        cells = [image[0, :, y : y + 4, x : x + 4].mean((1, 2)) for y in range(0, 12, 4) for x in range(0, 16, 4)]
        coarse = torch.stack(cells, 1).view(1, 3, 3, 4)
        network = nn.Sequential(model.colour, nn.ReLU(), model.guide)
        g, fine = network(coarse)[0], network(image)[0]
        slopes, offsets = torch.empty_like(lr_feats), torch.empty_like(lr_feats)
        for y in range(3):
            for x in range(4):
                near = slice(None), slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2)
                own, seen = g[near].flatten(1), lr_feats[0][near].flatten(1)
                covariance = ((own - own.mean(1, True)) * (seen - seen.mean(1, True))).mean(1)
                slope = covariance / (own.var(1, correction=0) + model.config.epsilon)
                slopes[0, :, y, x], offsets[0, :, y, x] = slope, seen.mean(1) - slope * own.mean(1)
        slopes, offsets = (Interpolation("bilinear")(image, maps, size)[0] for maps in (slopes, offsets))
    torch.testing.assert_close(out, slopes * fine + offsets)


@pytest.mark.parametrize("method", ["dgf", "indexnet", "a2u", "pac"])
def test_constants_survive_in_the_mean_whatever_the_weights(method: str) -> None:
    lr_feats = torch.linspace(-2, 5, CHANNELS).view(1, -1, 1, 1).expand(2, -1, 3, 4)
    with torch.no_grad():
        out = small(method)(IMAGE, lr_feats, (6, 8))
    if method == "indexnet":
        out = nn.functional.avg_pool2d(out, 2)
    torch.testing.assert_close(out, lr_feats[..., :1, :1].expand_as(out), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("index", ["cell", "sigmoid"])
def test_indexnet_multiplies_the_old_pixel_by_an_index(index: str) -> None:
    model = small("indexnet", index=index).double()
    assert isinstance(model, IndexNet)
    lr_feats, image = torch.randn(1, CHANNELS, 2, 3).double(), torch.rand(1, 3, 4, 6).double()
    with torch.no_grad():
        out, guidance = model(image, lr_feats, (4, 6))[0], model.stem(image)[0]
        logits = torch.empty(8, 2, 3).double()
        for y in range(2):
            for x in range(3):
                near = around(guidance, 2 * y, 2 * x, range(-1, 3))
                logits[:, y, x] = model.context.weight.flatten(1) @ near.flatten()
        indices = (model.logits.weight.flatten(1) @ model.norm(logits[None]).clamp(0, 6)[0].flatten(1)).sigmoid()
        indices = (indices if index == "sigmoid" else 4 * indices.exp() / indices.exp().sum(0)).view(4, 2, 3)
        for y in range(4):
            for x in range(6):
                expected = lr_feats[0, :, y // 2, x // 2] * indices[2 * (y % 2) + x % 2, y // 2, x // 2]
                torch.testing.assert_close(out[:, y, x], expected)


def test_a2u_reassembles_by_a_bilinear_form_of_the_guidance() -> None:
    model = small("a2u").double()
    assert isinstance(model, A2U)
    lr_feats, image, width = torch.randn(1, CHANNELS, 3, 3).double(), torch.rand(1, 3, 6, 6).double(), 4
    with torch.no_grad():
        out, guidance = model(image, lr_feats, (6, 6))[0], model.stem(image)[0]
        pooled = nn.functional.adaptive_avg_pool2d(guidance, 5)
        form = torch.zeros(2, 3, 3).double()
        for rank in range(2):
            filtered = []
            for layer, norm in ((model.u, model.norm_u), (model.v, model.norm_v)):
                kernels = layer(pooled)[width * rank : width * (rank + 1)].flatten(1)
                maps = torch.empty(width, 3, 3).double()
                for y in range(3):
                    for x in range(3):
                        maps[:, y, x] = (kernels * around(guidance, 2 * y, 2 * x, range(-2, 3))).sum(1)
                maps = norm(maps[None])[0]
                filtered.append(torch.where(maps < 0, 0.01 * maps, maps))
            form[rank] = (filtered[0] * filtered[1]).sum(0) / width**0.5
        p = model.p(guidance.mean((1, 2), keepdim=True)).view(9, 4, 2)
        for y in range(6):
            for x in range(6):
                scores = (p[:, 2 * (y % 2) + x % 2] @ form[:, y // 2, x // 2]).sigmoid().exp()
                near = around(lr_feats[0], y // 2, x // 2)
                torch.testing.assert_close(out[:, y, x], near @ scores / scores.sum())


@pytest.mark.parametrize("method", MIXERS)
def test_values_are_mixed_as_the_features_are(method: str) -> None:
    model, lr_feats, projection = small(method), torch.randn(2, CHANNELS, 3, 4), torch.randn(CHANNELS, 2)
    with torch.no_grad():
        whole = torch.einsum("bchw,ck->bkhw", model(IMAGE, lr_feats, (11, 16)), projection)
        few = model(IMAGE, lr_feats, (11, 16), torch.einsum("bchw,ck->bkhw", lr_feats, projection))
    torch.testing.assert_close(few, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dynamic", [True, False])
def test_dysample_s_predicts_offsets_of_groups_from_shuffled_features(dynamic: bool) -> None:
    model = small("dysample", style="pl", groups=4, dynamic_scope=dynamic).double()
    assert isinstance(model, DySample)
    lr_feats = torch.randn(1, CHANNELS, 3, 3).double()
    with torch.no_grad():
        out = model(IMAGE[:1].double(), lr_feats, (6, 6))[0]
        for y in range(6):
            for x in range(6):
                shuffled = lr_feats[0, :, y // 2, x // 2].view(-1, 4)[:, 2 * (y % 2) + x % 2]
                offsets = 0.5 * perceptron(model.offset, shuffled).view(2, 4)
                offsets = offsets * (perceptron(model.scope, shuffled).view(2, 4).sigmoid() if dynamic else 0.5)
                for group in range(4):
                    at = torch.tensor([y, x]) / 2 - 0.25 + offsets[:, group]
                    channels = slice(2 * group, 2 * group + 2)
                    expected = torch.zeros(2).double()
                    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
                        token = at.floor() + torch.tensor(corner)
                        value = pixel(lr_feats[0], int(token[0]), int(token[1]))[channels]
                        expected += (1 - (at - token).abs()).prod() * value
                    torch.testing.assert_close(out[channels, y, x], expected)


@pytest.mark.parametrize("ratio", [2, 3, 4])
@pytest.mark.parametrize("method", CONVOLUTIONS)
def test_the_full_convolutions_are_the_printed_layers(method: str, ratio: int) -> None:
    model, lr_feats = small(method, full=True, ratio=ratio).double(), torch.randn(1, CHANNELS, 3, 4).double()
    size = 3 * ratio, 4 * ratio
    weight, bias = (value.detach() for value in model.parameters())
    with torch.no_grad():
        out = model(IMAGE[:1].double(), lr_feats, size)[0]
    larger = nn.functional.interpolate(lr_feats, scale_factor=ratio, mode="bilinear")[0]
    for y in range(size[0]):
        for x in range(size[1]):
            old, part = (y // ratio, x // ratio), ratio * (y % ratio) + x % ratio
            source, at = (larger, (y, x)) if method == "resize-conv" else (lr_feats[0], old)
            near = around(source, *at).flatten()
            if method == "deconv":
                expected = weight[:, :, y % ratio, x % ratio].T @ lr_feats[0, :, old[0], old[1]] + bias
            elif method == "pixelshuffle":
                expected = weight.flatten(1)[part :: ratio**2] @ near + bias[part :: ratio**2]
            else:
                expected = weight.flatten(1) @ near + bias
            torch.testing.assert_close(out[:, y, x], expected)


def test_the_full_convolutions_hold_the_printed_numbers_of_weights() -> None:
    counts = {"deconv": 16 * CHANNELS**2, "pixelshuffle": 16 * 9 * CHANNELS**2, "resize-conv": 9 * CHANNELS**2}
    for method, count in counts.items():
        weight, bias = build_upsampler(method, {"channels": CHANNELS, "full": True, "ratio": 4}).parameters()
        assert weight.numel() == count
        assert len(bias) == (16 if method == "pixelshuffle" else 1) * CHANNELS


@pytest.mark.parametrize("method", CONVOLUTIONS)
def test_the_full_convolutions_start_as_interpolation(method: str) -> None:
    model = build_upsampler(method, {"channels": CHANNELS, "full": True, "ratio": 4})
    lr_feats, mode = torch.randn(2, CHANNELS, 3, 4), "bilinear" if method == "resize-conv" else "nearest"
    with torch.no_grad():
        out = model(IMAGE, lr_feats, (12, 16))
    torch.testing.assert_close(out, nn.functional.interpolate(lr_feats, scale_factor=4, mode=mode))


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        ("deconv", {"ratio": 4}, "ratio=4: give full=true as well"),
        ("deconv", {"ratio": 1, "full": True}, "ratio=1: must be at least 2"),
        ("dysample", {"groups": 2}, "groups=2: give style=pl as well"),
        ("dysample", {"style": "pl", "groups": 3}, "8 channels are no multiple of 4 and of groups=3"),
        ("pac", {"kernel_size": 4}, "kernel_size=4: must be odd"),
        ("liif", {"layers": 1}, "layers=1: must be at least 2"),
        ("ifa", {"channels": None}, "IFA needs the number of channels"),
    ],
)
def test_settings_that_cannot_be_are_refused(method: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_upsampler(method, {"channels": CHANNELS, **config})


def test_printed_settings_are_settings() -> None:
    for method in TRAINABLE.values():
        assert set(method.printed) <= set(asdict(method.config()))
