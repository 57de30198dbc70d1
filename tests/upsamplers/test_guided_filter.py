from __future__ import annotations

import torch
import torch.nn.functional as F

from featup_cli.upsamplers.guided_filter import GuidedFilter


def test_an_edge_of_the_picture_becomes_an_edge_of_the_features() -> None:
    image = torch.full((1, 3, 64, 64), 0.2)
    image[..., 29:] = 0.8  # an edge that no cell of 8 pixels begins at
    true = 2 * image[:, :1] - image[:, 1:2] + 0.5
    lr_feats = F.adaptive_avg_pool2d(true, 8)
    bilinear = F.interpolate(lr_feats, size=(64, 64), mode="bilinear", align_corners=False)
    guided = GuidedFilter()(image, lr_feats, (64, 64))

    def jump(maps: torch.Tensor) -> torch.Tensor:
        return (maps[..., 29] - maps[..., 28]).mean()

    assert jump(guided) > 4 * jump(bilinear)


def test_is_linear_in_the_features() -> None:
    image, a, b = torch.rand(2, 3, 30, 40), torch.randn(2, 4, 5, 7), torch.randn(2, 4, 5, 7)
    upsample = GuidedFilter()
    expected = 2 * upsample(image, a, (33, 41)) - 3 * upsample(image, b, (33, 41))
    torch.testing.assert_close(upsample(image, 2 * a - 3 * b, (33, 41)), expected, atol=1e-4, rtol=1e-4)


def test_a_flat_picture_gives_smooth_features_and_no_slopes() -> None:
    out = GuidedFilter()(torch.full((1, 3, 32, 32), 0.5), torch.randn(1, 2, 4, 4), (32, 32))
    assert out.isfinite().all()
    assert (out[..., 1:] - out[..., :-1]).abs().max() < 0.3
