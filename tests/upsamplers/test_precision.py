"""Every feed-forward method in every number format, against its own float64 result on the same rounded inputs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.api import Upsampler
from featup_cli.upsamplers.attached import PretrainedUpsampler
from featup_cli.upsamplers.registry import FEED_FORWARD, TRAINABLE, make_upsampler
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.guided_filter import GuidedFilter
from featup_cli.upsamplers.resfu.key import LowResKey
from featup_cli.upsamplers.resfu.plan import Keep, Plan
from featup_cli.upsamplers.resfu.rows import bands_of, stored
from featup_cli.upsamplers.weights.file import build_upsampler
from tests.tolerances import UPSAMPLING, assert_close

CHANNELS = 8
SPREAD, MEANS = 0.5, (1.0, 3.0)
SIZE = (56, 72)
PACKAGED = ("jbu", "resfu")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALVES = [torch.bfloat16, torch.float16]


def smooth(channels: int, coarse: tuple[int, int], size: tuple[int, int], seed: int) -> Tensor:
    """Noise [1, channels, *size] of mean 0 and standard deviation 1 that varies on a coarser grid, in float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, channels, *coarse, generator=generator, dtype=torch.float64)
    maps = F.interpolate(noise, size=size, mode="bicubic", align_corners=False)
    return (maps - maps.mean()) / maps.std()


def picture(coarse: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return smooth(3, coarse, size, 0).mul(0.2).add(0.5).clamp(0, 1)


def features(coarse: tuple[int, int], size: tuple[int, int]) -> Tensor:
    means = torch.linspace(*MEANS, CHANNELS, dtype=torch.float64).view(1, -1, 1, 1)
    return means + SPREAD * smooth(CHANNELS, coarse, size, 1)


IMAGE, FEATURES = picture((6, 8), SIZE), features((4, 5), (7, 9))
WIDE_SIZE = (8, 2100)
WIDE_IMAGE, WIDE_FEATURES = picture((2, 100), WIDE_SIZE), features((2, 60), (2, 525))


def trained(method: str) -> nn.Module:
    """A module near its start, but with no parameter left at zero."""
    torch.manual_seed(0)
    module = build_upsampler(method, {"channels": CHANNELS})
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module.eval()


def make(method: str) -> Upsampler:
    if method not in TRAINABLE or method in PACKAGED:
        return make_upsampler(method)
    return PretrainedUpsampler(trained(method), {"config": {"channels": CHANNELS}}, [])


def module_of(method: str) -> nn.Module:
    upsampler = make(method)
    assert isinstance(upsampler, PretrainedUpsampler)
    return upsampler.module


def exact(upsampler: Upsampler, image: Tensor, lr_feats: Tensor, size: tuple[int, int]) -> Tensor:
    """The result in float64, with parameters in float64 as well."""
    upsampler = copy.deepcopy(upsampler)
    if isinstance(upsampler, PretrainedUpsampler):
        upsampler.module.double()
    return upsampler(image.double(), lr_feats.double(), size)


def check(upsampler: Upsampler, image: Tensor, lr_feats: Tensor, size: tuple[int, int]) -> None:
    """Call and bands keep the dtype and are close to float64."""
    expected = exact(upsampler, image, lr_feats, size)
    dtype = lr_feats.dtype
    # What float32 parameters make of float64 features is no better than float32.
    held_to = torch.float32 if dtype == torch.float64 and isinstance(upsampler, PretrainedUpsampler) else dtype
    bands = torch.cat(list(upsampler.bands(image, lr_feats, size, 13)), 2)
    for name, actual in (("call", upsampler(image, lr_feats, size)), ("bands", bands)):
        assert actual.dtype == dtype
        assert_close(actual, expected, held_to, name, table=UPSAMPLING)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", FEED_FORWARD)
def test_features_of_every_dtype(method: str, dtype: torch.dtype) -> None:
    check(make(method), IMAGE.to(dtype), FEATURES.to(dtype), SIZE)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "guided", "classical-jbu", "carafe", "dysample"])
def test_more_columns_than_a_half_type_counts(method: str, dtype: torch.dtype) -> None:
    upsampler = make(method)
    check(upsampler, WIDE_IMAGE.to(dtype), WIDE_FEATURES.to(dtype), WIDE_SIZE)
    if isinstance(upsampler, PretrainedUpsampler):
        upsampler.module.to(dtype)
        check(upsampler, WIDE_IMAGE.to(dtype), WIDE_FEATURES.to(dtype), WIDE_SIZE)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", TRAINABLE)
def test_parameters_of_every_dtype(method: str, dtype: torch.dtype) -> None:
    upsampler = PretrainedUpsampler(module_of(method).to(dtype), {"config": {}}, [])
    check(upsampler, IMAGE.to(dtype), FEATURES.to(dtype), SIZE)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", TRAINABLE)
def test_autocast(method: str, dtype: torch.dtype, gradients: bool) -> None:
    module = module_of(method)
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(IMAGE, FEATURES, SIZE)
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype):
        out = module(IMAGE.float(), FEATURES.float(), SIZE)
    assert out.requires_grad == gradients
    assert_close(out, expected, dtype, table=UPSAMPLING)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_guided_filter_under_autocast(dtype: torch.dtype) -> None:
    upsampler = make_upsampler("guided")
    with torch.autocast("cpu", dtype):
        check(upsampler, IMAGE.float(), FEATURES.float(), SIZE)
        check(upsampler, IMAGE.to(dtype), FEATURES.to(dtype), SIZE)


def test_guided_filter_of_features_far_from_zero() -> None:
    far = FEATURES + 1000
    out = make_upsampler("guided")(IMAGE.float(), far.float(), SIZE)
    expected = exact(make_upsampler("guided"), IMAGE.float(), far.float(), SIZE)
    # Half a unit in the last place of 1000 is 3e-5.
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=3e-4)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_guided_query_of_resfu(dtype: torch.dtype) -> None:
    """Queries and keys of mean 2, whose variances are small differences of their squares."""
    query = (2 + SPREAD * smooth(4, (6, 7), (48, 56), 0)).to(dtype)
    maps = (2 + SPREAD * smooth(4, (4, 5), (6, 7), 1)).to(dtype)
    guide, size = GuidedFilter(ReSFUConfig()), (48, 56)

    def aligned(query: Tensor, maps: Tensor, keep: Keep) -> Tensor:
        plan = Plan(ReSFUConfig(), (6, 7), size, query.device, keep)
        plan.aligned = 48 if keep else 16
        rows = guide(stored(query), LowResKey(maps, size), plan)
        return torch.cat([rows(*band) for band in bands_of(48, plan.aligned)], 2)

    expected = aligned(query.double(), maps.double(), Keep.ALL)
    for keep in Keep:
        actual = aligned(query, maps, keep)
        assert actual.dtype == dtype
        assert_close(actual, expected, dtype, keep.name, table=UPSAMPLING)
