"""State dicts of the shapes that ReSFU's authors publish, and the variants of the paper's text."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli import read_checkpoint
from featup_cli.core.errors import UsageError, WeightsError
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.guided_filter import GuidedFilter
from featup_cli.upsamplers.resfu.key import HighResKey, LowResKey
from featup_cli.upsamplers.resfu.plan import Plan
from featup_cli.upsamplers.resfu.rows import stored
from featup_cli.upsamplers.resfu.scores import ConcatBlock
from featup_cli.upsamplers.resfu.statistics import Map, norms_of
from featup_cli.upsamplers.resfu.upsampler import ReSFU
from featup_cli.upsamplers.weights.file import build_upsampler
from tests.upsamplers.published_resfu import Published, formula

PUBLISHED = Published()


def saved(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "resfu.pth")
    return folder / "resfu.pth"


@pytest.mark.parametrize(
    ("sizes", "ratio"),
    [
        (PUBLISHED, 2),
        (PUBLISHED, 4),
        (PUBLISHED, 8),
        (Published(side=5, groups=2, hidden=64, radius=1), 2),
        (Published(projection=16, guidance=64, groups=1, radius=3), 4),
    ],
)
def test_state_dicts_of_published_shapes_give_the_papers_result(sizes: Published, ratio: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state, height, width = sizes.state(), 24 // ratio + 1, 40 // ratio
    y, x = torch.randn(2, sizes.guidance, height * ratio, width * ratio), torch.randn(2, sizes.channels, height, width)
    found = read_checkpoint(saved(state, tmp_path))
    assert found.parameters == sum(value.numel() for name, value in state.items() if name != "GF.kernel")
    expected = formula({name: value.double() for name, value in state.items()}, sizes, y.double(), x.double(), ratio)
    extent, size = expected.max() - expected.min(), (height * ratio, width * ratio)
    with torch.no_grad():
        if sizes == PUBLISHED:
            assert (found.upsampler(y, x, size) - expected).abs().max() < 2e-6 * extent
        exact = found.upsampler.double()(y.double(), x.double(), size)
    assert (exact - expected).abs().max() < 1e-12 * extent


@pytest.mark.parametrize("radius", [4, 8])
def test_the_radius_is_that_of_the_kernel(radius: int, tmp_path: Path) -> None:
    found = read_checkpoint(saved(Published(radius=radius).state(), tmp_path))
    assert isinstance(found.upsampler, ReSFU)
    assert (found.upsampler.config.filter_radius, found.upsampler.config.filter_scale) == (radius, 2)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GF.kernel", torch.ones(32, 1, 1, 8), "GF.kernel is no window"),
        ("GF.kernel", torch.full((32, 1, 1, 9), 1 / 9), "GF.kernel is no window"),
        ("GF.kernel", torch.ones(32, 1, 1, 1), "filter_radius=0"),
        ("GF.kernel", torch.ones(9), r"GF.kernel has the shape \[9\]"),
        ("detail_scores.bias", torch.ones(128, 1, 1, 1), r"another shape detail_scores\.bias"),
        ("semantic_scores.channel_compressor.1.weight", torch.ones(128), "has the shape"),
    ],
)
def test_other_shapes_are_refused_in_one_line(name: str, value: Tensor, says: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        read_checkpoint(saved(PUBLISHED.state() | {name: value}, tmp_path))
    assert "resfu.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_of_files_written_before_keep_their_window_and_widths() -> None:
    """What `save_upsampler` wrote when a radius was that of half resolution, and a compressor as wide as L."""
    stored_config = {
        "channels": 96, "kernel_size": 3, "projection": 32, "groups": 4, "hidden": 64, "similarity": "pcdc",
        "scores": "both", "guided_query": True, "smoothed_key": True, "neighbors": "fine", "guidance": "image",
        "guidance_channels": 32, "filter_radius": 8, "filter_eps": 0.001, "sharpen_lr": 1.5, "sharpen_lr_wide": 1.0,
    }  # fmt: skip
    module = build_upsampler("resfu", stored_config)
    assert isinstance(module, ReSFU)
    assert module.GF is not None
    shapes = {name: [*value.shape] for name, value in module.state_dict().items()}
    assert (module.GF.radius, module.GF.scale, shapes["GF.kernel"]) == (8, 2, [1, 1, 17, 17])
    assert shapes["detail_scores.channel_compressor.1.weight"] == [64, 16, 1, 1]


@pytest.mark.parametrize(
    ("radius", "scale", "reaches"), [(8, 1, (-16, 16)), (4, 2, (-18, 16))], ids=["as printed", "as published"]
)
def test_the_window_is_17_pixels_or_9_of_every_second(radius: int, scale: int, reaches: tuple[int, int]) -> None:
    """Pixels that a result depends on: those of windows whose centres lie in the window around it."""
    config, size = ReSFUConfig(filter_radius=radius, filter_scale=scale), (81, 81)
    fit, plan = GuidedFilter(config).double(), Plan(config, (9, 9), size, torch.device("cpu"))
    query, key = torch.randn(1, 32, *size).double(), LowResKey(torch.randn(1, 32, 9, 9).double(), size)
    assert fit.side == 2 * radius + 1

    def at_centre(maps: Tensor) -> Tensor:
        return fit(stored(maps), key, plan)(0, 81)[0, :, 40, 40]

    before, read = at_centre(query), []
    for offset in range(-20, 21):
        other = query.clone()
        other[:, :, 40, 40 + offset] += 1
        if offset and not torch.equal(at_centre(other), before):
            read.append(offset)
    assert (min(read), max(read)) == reaches


def test_numbers_of_parameters_are_those_of_the_paper() -> None:
    def count(**settings: object) -> int:
        return sum(p.numel() for p in ReSFU(384, ReSFUConfig(**settings)).parameters())  # type: ignore[arg-type]

    assert count() == 64_690
    assert count() - count(guidance="features") == 20_384  # the stem
    # Table 6 has 0.01 million more for a Segmenter and 0.05 for a SegFormer, which has three modules.
    more = (count(similarity="concat") - count()) / 1e6
    assert (abs(more - 0.01) < 0.01, abs(3 * more - 0.05) < 0.01) == (True, True)
    # L = 32, as printed, before a compressor of 128 channels.
    printed = ReSFU(384, ReSFUConfig(hidden=32, compressed=128, relu_first=False)).state_dict()
    assert printed["detail_scores.weight"].shape == (32, 8, 3, 3)
    assert printed["detail_scores.channel_compressor.1.weight"].shape == (128, 8, 1, 1)
    assert printed["detail_scores.channel_compressor.4.weight"].shape == (9, 128, 1, 1)
    with pytest.raises(UsageError, match="compressed=20, groups=4: all widths must be multiples of groups"):
        ReSFUConfig(compressed=20)


@pytest.mark.parametrize("ratio", [2, 3])
def test_concat_is_a_dilated_convolution_of_both(ratio: int) -> None:
    """Table 6 b: inputs are 2 D / G a group, of the normed query and key one after the other."""
    config = ReSFUConfig(projection=16, hidden=24, groups=4, similarity="concat")
    block, size = ConcatBlock(config).double(), (6 * ratio, 5 * ratio)
    assert block.weight.shape == (24, 2 * 16 // 4, 3, 3)
    torch.nn.init.normal_(block.norm.weight)
    torch.nn.init.normal_(block.bias)
    plan = Plan(config, (6, 5), size, torch.device("cpu"))
    query, low, high = (torch.randn(2, 16, *s).double() for s in (size, (6, 5), size))
    wrapped = [Map(stored(m), lambda norm, m=m: norms_of([(stored(m), norm)], size[0], 4)[0]) for m in (query, high)]
    keys = [
        (HighResKey(wrapped[1], size, (ratio, ratio)), high),
        (LowResKey(low, size), F.interpolate(low, size=size, mode="bilinear")),
    ]
    for (key, maps), (start, stop) in itertools.product(keys, [(0, size[0]), (3, 7)]):
        both = torch.cat((block.norm(query), block.norm(maps)), 1)
        padded = F.pad(both, (ratio,) * 4, mode="replicate")
        expected = F.conv2d(padded, block.weight, block.bias, dilation=ratio, groups=4)[:, :, start:stop]
        torch.testing.assert_close(block._compare(wrapped[0], key, plan)(start, stop), expected)
