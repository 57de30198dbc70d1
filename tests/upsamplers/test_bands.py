"""Results made in bands of rows are the results made at once."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featup_cli.core.errors import MemoryBudgetError
from featup_cli.core.settings import NoSettings
from featup_cli.upsamplers.api import Rows, Upsampler, UpsamplerModule
from featup_cli.upsamplers.bands import MARGIN, choose_rows
from featup_cli.upsamplers.baselines.carafe import CARAFE
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.upsampler import ImplicitUpsampler
from featup_cli.upsamplers.jbu import plan
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.jbu.released import ReleasedJBU
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler
from featup_cli.upsamplers.registry import make_upsampler
from featup_cli.upsamplers.weights.normed import NormedUpsampler

SIZES = [
    ((5, 7), (61, 90)),  # odd
    ((4, 6), (56, 84)),  # patches of 14
    ((3, 2), (48, 32)),  # the released stack's own ratio
    ((6, 5), (4, 3)),  # smaller
    ((2, 2), (3, 9)),  # smaller than a window
]


def jbu(**settings: object) -> JBUUpsampler:
    model = JBUUpsampler(replace(JBUConfig(key_size=6, temperature=20.0), **settings)).eval()  # type: ignore[arg-type]
    for stage in model.stages:
        nn.init.normal_(stage.range_proj[3].weight, std=0.3)  # type: ignore[index, union-attr]
    return model


def make(name: str) -> Upsampler:
    if name == "jbu":
        return jbu()
    if name == "jbu-nearest":
        return jbu(radius=1, resize="nearest", contrast=0.3)
    if name == "jbu-normed":
        return NormedUpsampler(8, jbu(resize="bilinear", range_kernel="cosine"))
    if name == "jbu-released":
        return ReleasedJBU(8).eval()
    return make_upsampler(name)


METHODS = ["nearest", "bilinear", "bicubic", "guided", "jbu", "jbu-nearest", "jbu-normed", "jbu-released"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("lr_size", "output_size"), SIZES)
@pytest.mark.parametrize("picture_size", [(50, 66), (11, 13)])
def test_bands_are_the_whole(
    name: str,
    lr_size: tuple[int, int],
    output_size: tuple[int, int],
    picture_size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "WHOLE_BYTES", 4 * 2 * 8 * 100)  # stages of more than 100 pixels by bands
    upsampler = make(name)
    if isinstance(upsampler, nn.Module):
        upsampler.double()  # in float32 a sharp kernel turns rounding of the keys into 1e-4 of the weights
    image, feats = torch.rand(2, 3, *picture_size).double(), torch.randn(2, 8, *lr_size).double()
    with torch.no_grad():
        whole = upsampler(image, feats, output_size)
        for rows in (1, 7, output_size[0]):
            parts = list(upsampler.bands(image, feats, output_size, rows))
            assert all(part.shape[2] <= rows for part in parts)
            torch.testing.assert_close(torch.cat(parts, 2), whole, atol=1e-7, rtol=0)
        last = list(upsampler.bands(image, feats, output_size, 2, start=output_size[0] - 1))
        torch.testing.assert_close(torch.cat(last, 2), whole[:, :, -1:], atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", [*METHODS, "resfu", "whole"])
@pytest.mark.parametrize("picture_size", [(50, 66), (11, 13), (61, 90)])
def test_bands_take_pictures_of_bytes(name: str, picture_size: tuple[int, int]) -> None:
    upsampler: Upsampler = CARAFE(8) if name == "whole" else make(name)
    pixels, feats = torch.randint(0, 256, (2, 3, *picture_size), dtype=torch.uint8), torch.randn(2, 8, 5, 7)
    of_floats, of_bytes = (
        torch.cat(list(upsampler.bands(image, feats, (61, 90), 9)), 2) for image in (pixels.float() / 255, pixels)
    )
    torch.testing.assert_close(of_bytes, of_floats, atol=1e-4, rtol=0)


def test_bands_of_a_basis_are_the_whole() -> None:
    model, image, feats = jbu().double(), torch.rand(1, 3, 40, 40).double(), torch.randn(1, 200, 3, 3).double()
    with torch.no_grad():
        whole = model(image, feats, (31, 40))
        assert model.prepare(image, feats, (31, 40)).mix is not None
        bands = torch.cat(list(model.bands(image, feats, (31, 40), 6)), 2)
    torch.testing.assert_close(bands, whole, atol=1e-7, rtol=0)


def fake_backbone(images: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(images, 8).repeat(1, 3, 1, 1).sin()


@pytest.mark.parametrize("representation", ["network", "buffer"])
def test_implicit_bands_are_the_whole_of_one_fit(representation: str) -> None:
    config = ImplicitConfig(
        views=6, heldout_views=2, max_steps=3, tokens=32, hidden=16, components=5,
        representation=representation,  # type: ignore[arg-type]
    )  # fmt: skip
    image = nn.functional.interpolate(torch.rand(1, 3, 6, 8), size=(60, 80), mode="bicubic").clamp(0, 1)
    feats = fake_backbone(nn.functional.interpolate(image, size=(48, 64)))
    upsampler = ImplicitUpsampler(fake_backbone, (48, 64), config)
    whole = upsampler(image, feats, (37, 90))
    first, *others = upsampler.bands(image, feats, (37, 90), 10)
    torch.testing.assert_close(torch.cat([first, *others], 2), whole, atol=2e-5, rtol=0)
    fitted = upsampler.model
    rest = torch.cat(list(upsampler.bands(image, feats, (37, 90), 7, start=10)), 2)
    assert upsampler.model is fitted  # going on where a run was broken off fits nothing anew
    torch.testing.assert_close(rest, whole[:, :, 10:], atol=2e-5, rtol=0)


class Ones(UpsamplerModule):
    """Checks that it may forget a band when it makes the next."""

    Config = NoSettings

    def prepare(self, *inputs: object, whole: bool = True) -> Rows:
        made: list[weakref.ref[Tensor]] = []

        def rows(top: int, bottom: int) -> Tensor:
            assert whole == torch.is_grad_enabled()
            assert all(ref() is None for ref in made)
            made.append(weakref.ref(band := torch.ones(1, 1, bottom - top, 1)))
            return band

        return rows


def test_bands_of_a_network_have_no_gradients_are_let_go_of_and_leave_the_caller_his() -> None:
    inputs = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 2, 2), (9, 1)
    iterator = Ones().bands(*inputs, 4)
    for height in (4, 4, 1):
        assert next(iterator).shape[2] == height
        assert torch.is_grad_enabled()
    assert next(iterator, None) is None
    assert Ones()(*inputs).shape[2] == 9


@pytest.mark.parametrize("name", ["bilinear", "guided"])
def test_gradients_pass_through_upsamplers_that_are_no_networks(name: str) -> None:
    image, feats = torch.rand(1, 3, 8, 8), torch.randn(1, 2, 3, 3, requires_grad=True)
    make_upsampler(name)(image, feats, (12, 12)).sum().backward()
    assert feats.grad is not None
    torch.testing.assert_close(feats.grad.sum(), torch.tensor(2.0 * 12 * 12))  # the weights of a pixel sum to one


def test_a_network_that_makes_the_whole_is_split() -> None:
    module = CARAFE(4).eval()
    feats, image = torch.randn(1, 4, 3, 3), torch.rand(1, 3, 9, 9)
    with torch.no_grad():
        whole = module(image, feats, (10, 12))
    bands = list(module.bands(image, feats, (10, 12), 4))
    assert [band.shape[2] for band in bands] == [4, 4, 2]
    assert torch.equal(torch.cat(bands, 2), whole)
    assert torch.equal(torch.cat(list(module.bands(image, feats, (10, 12), 4, start=3)), 2), whole[:, :, 3:])
    assert module.band_bytes(feats.shape, (10, 12), 1) > whole.numel() * 4


@pytest.mark.parametrize("name", METHODS)
def test_estimates_grow_with_the_rows(name: str) -> None:
    upsampler = make(name)
    sizes = [upsampler.band_bytes((1, 8, 16, 16), (512, 512), rows) for rows in (1, 2, 8, 64, 512)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert sizes[-1] > 4 * 8 * 512 * 512


def test_as_many_rows_are_taken_as_fit() -> None:
    upsampler, shape, size = make_upsampler("jbu"), (1, 96, 16, 16), (1000, 1000)
    rows = choose_rows(upsampler, shape, size, 300_000_000, held=100_000_000)
    assert 1 <= rows < 1000
    assert upsampler.band_bytes(shape, size, rows) <= MARGIN * 200e6 < upsampler.band_bytes(shape, size, rows + 1)
    assert choose_rows(upsampler, shape, size, 10**12) == 1000


def test_a_result_that_never_fits_is_refused_with_the_estimate() -> None:
    message = r"4000x4000 features \(height x width\) with --method dip need about 48 GB, but the limit is 2\.0 GB; "
    message += r"give --memory 4[78][.\d]*GB"
    with pytest.raises(MemoryBudgetError, match=message):
        choose_rows(CARAFE(96), (1, 96, 16, 16), (4000, 4000), 2_000_000_000, held=500_000_000, method="dip")
