"""Jittered views of a picture: reflect pad, zoom, crop and flip, with their parameters kept.

Source: FeatUp, section 3 and table 7. A view is a box of the picture, which may reach beyond its border (there the
picture is mirrored), scaled to the network's input size and perhaps flipped: every composition of the four has this
form. `Views.to_image` applies the same transform to positions, so features never have to be warped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.ops.taps import in_unit_range


@dataclass(frozen=True)
class Views:
    """Parameters of V views of a picture of `image_size`, each rendered at `view_size` (height, width).

    `boxes` int64 [V, 4] holds (top, left, height, width) in pixels of the picture; negative or overhanging values
    mean mirrored content. `flips` bool [V] says which are mirrored left to right after scaling.

    They are drawn on the CPU, where `render` and `to_view` read them as numbers; `to_image` needs them on the device
    of its positions.
    """

    image_size: Size
    view_size: Size
    boxes: Tensor
    flips: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: slice) -> Views:
        return Views(self.image_size, self.view_size, self.boxes[index], self.flips[index])

    def to(self, device: torch.device) -> Views:
        """The same views with their parameters on `device`."""
        return Views(self.image_size, self.view_size, self.boxes.to(device), self.flips.to(device))

    def to_image(self, view: Tensor, position: Tensor) -> Tensor:
        """Map positions in views to positions in the picture.

        Args:
            view: int64 [...], the view that each position belongs to.
            position: [..., 2], (y, x) in units of view height and width: 0 to 1 inside the view.
        Returns:
            [..., 2], (y, x) in units of picture height and width, mirrored back into 0 to 1.
        """
        box = self.boxes[view].to(position.dtype)
        y, x = position.unbind(-1)
        x = torch.where(self.flips[view], 1 - x, x)
        y = (box[..., 0] + y * box[..., 2]) / self.image_size[0]
        x = (box[..., 1] + x * box[..., 3]) / self.image_size[1]
        return mirror(torch.stack((y, x), -1))

    def to_view(self, index: int, position: Tensor) -> Tensor:
        """Map positions [..., 2] in the picture to positions in view `index`; it shows those within 0 to 1."""
        top, left, height, width = self.boxes[index].tolist()
        y = (position[..., 0] * self.image_size[0] - top) / height
        x = (position[..., 1] * self.image_size[1] - left) / width
        return torch.stack((y, 1 - x if bool(self.flips[index]) else x), -1)

    def render(self, picture: Tensor, index: int) -> Tensor:
        """View `index` of `picture` [3, *image_size]: [3, *view_size], antialiased."""
        top, left, height, width = self.boxes[index].tolist()
        rows = mirror_index(torch.arange(top, top + height, device=picture.device), self.image_size[0])
        cols = mirror_index(torch.arange(left, left + width, device=picture.device), self.image_size[1])
        crop = resize_picture(picture[:, rows][:, :, cols], self.view_size)
        return crop.flip(-1) if bool(self.flips[index]) else crop


def mirror(position: Tensor) -> Tensor:
    """Reflect coordinates at 0 and 1 until they lie between."""
    folded = position.remainder(2)
    return torch.where(folded > 1, 2 - folded, folded)


def mirror_index(index: Tensor, size: int) -> Tensor:
    """Reflect pixel indices at the outer pixel edges (the edge pixel is repeated) into 0..size-1."""
    folded = index.remainder(2 * size)
    return torch.where(folded >= size, 2 * size - 1 - folded, folded)


def draw_views(
    count: int,
    image_size: Size,
    view_size: Size,
    *,
    max_pad: float,
    max_zoom: float,
    zoom_share: float,
    flips: bool,
    generator: torch.Generator,
) -> Views:
    """Draw views: first the picture as it is, then padded by up to `max_pad` a side, perhaps zoomed, cropped, flipped.

    Args:
        count: number of views.
        image_size: (height, width) of the picture; at least `view_size` for zoomed views to show true detail.
        view_size: (height, width) of the network's input.
        max_pad: reflect padding in pixels of `view_size`; a box is shifted by at most this beyond the border.
        max_zoom: largest magnification, at least 1; magnifications are log-uniform.
        zoom_share: share of views that are zoomed; the rest keep the picture's own scale.
        flips: whether half of the views are mirrored.
        generator: CPU generator that makes the draw repeatable.
    """
    size = torch.tensor(image_size, dtype=torch.float64)
    pad = torch.tensor([max_pad * i / v for i, v in zip(image_size, view_size, strict=True)], dtype=torch.float64)
    zoomed = torch.rand(count, generator=generator) < zoom_share
    exponent = torch.rand(count, generator=generator, dtype=torch.float64)
    zoom = torch.where(zoomed, max_zoom**exponent, 1.0)
    extent = (size / zoom[:, None]).round().clamp_min(1)
    corner = -pad + torch.rand(count, 2, generator=generator, dtype=torch.float64) * (size + 2 * pad - extent)
    boxes = torch.cat((corner.round(), extent), 1).long()
    flipped = (torch.rand(count, generator=generator) < 0.5) & flips
    boxes[0] = torch.tensor([0, 0, *image_size])
    flipped[0] = False
    return Views(image_size, view_size, boxes, flipped)


def view_source(picture: Tensor, network_size: Size, max_zoom: float) -> Tensor:
    """The picture [3, H, W] resized for all views: no larger than the largest zoom can show, and no smaller than the
    network's input."""
    height = min(max(picture.shape[1], network_size[0]), round(network_size[0] * max_zoom))
    width = min(max(picture.shape[2], network_size[1]), round(network_size[1] * max_zoom))
    return resize_picture(picture, (height, width))


def resize_picture(picture: Tensor, size: Size) -> Tensor:
    """[3, H, W] in [0, 1], or uint8, to another size, antialiased bicubic: floats in [0, 1]."""
    if tuple(picture.shape[1:]) == size:
        return in_unit_range(picture)
    if picture.dtype == torch.uint8:  # one channel at a time as floats: the picture may be large
        return torch.cat([resize_picture(in_unit_range(channel), size) for channel in picture.split(1)])
    return F.interpolate(picture[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
