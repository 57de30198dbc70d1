from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from featup_cli.multiview.lookup import sample_grid
from featup_cli.multiview.views import Views, draw_views, mirror, mirror_index

IMAGE, VIEW = (96, 128), (48, 64)


def smooth_picture(size: tuple[int, int]) -> torch.Tensor:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0].clamp(0, 1)


def some_views(count: int = 12) -> Views:
    return draw_views(
        count, IMAGE, VIEW, max_pad=7, max_zoom=1.8, zoom_share=0.5, flips=True,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip


@pytest.mark.parametrize("index", range(12))
def test_positions_follow_the_pixels_through_every_transform(index: int) -> None:
    picture, views = smooth_picture(IMAGE), some_views()
    rendered = views.render(picture, index)
    assert rendered.shape == (3, *VIEW)
    inner = torch.rand(200, 2) * 0.9 + 0.05
    in_picture = views.to_image(torch.full((200,), index), inner)
    assert in_picture.min() >= 0
    assert in_picture.max() <= 1
    torch.testing.assert_close(sample_grid(rendered, inner), sample_grid(picture, in_picture), atol=0.02, rtol=0)


def test_to_view_inverts_to_image_where_nothing_is_mirrored() -> None:
    views = some_views()
    position = torch.rand(50, 2) * 0.4 + 0.3
    for index in range(len(views)):
        seen = views.to_view(index, position)
        inside = ((seen > 0) & (seen < 1)).all(-1)
        back = views.to_image(torch.full((50,), index), seen)
        torch.testing.assert_close(back[inside], position[inside])


def test_the_first_view_is_the_picture_itself() -> None:
    picture = smooth_picture(VIEW)
    views = draw_views(
        4, VIEW, VIEW, max_pad=7, max_zoom=2, zoom_share=1.0, flips=True, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(views.render(picture, 0), picture)


def test_draws_cover_pads_zooms_and_flips_and_repeat_with_the_seed() -> None:
    views, again = some_views(60), some_views(60)
    assert torch.equal(views.boxes, again.boxes)
    zoom = IMAGE[0] / views.boxes[:, 2].double()
    assert zoom.min() >= 1.0
    assert 1.5 < zoom.max() <= 1.82
    assert 0.3 < (zoom > 1.001).float().mean() < 0.7
    assert 0.2 < views.flips.float().mean() < 0.8
    pad = 7 * IMAGE[0] / VIEW[0]
    assert -pad <= views.boxes[:, 0].min() < 0
    assert (views.boxes[:, 0] + views.boxes[:, 2]).max() <= IMAGE[0] + pad + 1


def test_mirroring_repeats_the_edge_pixel_however_far_outside() -> None:
    assert mirror_index(torch.arange(-5, 8), 3).tolist() == [1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1]
    torch.testing.assert_close(mirror(torch.tensor([-0.25, 1.25, 2.5, 0.5])), torch.tensor([0.25, 0.75, 0.5, 0.5]))
