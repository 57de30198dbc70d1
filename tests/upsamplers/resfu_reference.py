"""ReSFU from its paper, in plain PyTorch: every map whole and at full size, no norm folded, no band, nothing in place.

It shares no code with the upsampler but the layers that hold parameters. Slow and hungry: for small maps.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.resfu.scores import ConcatBlock, PCDCBlock
from featup_cli.upsamplers.resfu.upsampler import KEY_PIXELS, ReSFU

Size = tuple[int, int]


def plain_resfu(model: ReSFU, image: Tensor, lr_feats: Tensor, size: Size) -> Tensor:
    """The result [B, C, *size] of `model` for a picture or a map and features [B, C, h, w]."""
    c, weights = model.config, plain_weights(model, image, lr_feats, size)
    near = low_res_neighbors(sharpened(lr_feats, model.sharpen_lr), size, c.kernel_size, c.neighbors == "coarse")
    return sum((weights[:, t, None] * maps for t, maps in enumerate(near)), torch.zeros(()))


def plain_weights(model: ReSFU, image: Tensor, lr_feats: Tensor, size: Size) -> Tensor:
    """The weights of the neighbours, [B, K * K, *size]."""
    c, lr_size = model.config, (lr_feats.shape[2], lr_feats.shape[3])
    coarse = c.neighbors == "coarse"
    query = model.q(model.norm_y(guidance(model, image, size)))
    smooth = blurred(query, (-0.5 * torch.arange(-1, 2).double().square()).exp()) if c.smoothed_key else query
    scores = query.new_zeros(())
    if model.semantic_scores is not None:
        key = low_res_key(model, image, lr_feats)
        upsampled = F.interpolate(key, size=size, mode="nearest-exact") if coarse else up(key, size)
        aligned = guided_filter(query, upsampled, c) if c.guided_query else query
        near = [*low_res_neighbors(key, size, c.kernel_size, coarse)]
        scores = scores + compare(model.semantic_scores, aligned, near, upsampled, lr_size)
    if model.detail_scores is not None:
        if coarse:
            pooled = resized(smooth, lr_size)
            near = [*low_res_neighbors(pooled, size, c.kernel_size, coarse)]
            smooth = F.interpolate(pooled, size=size, mode="nearest-exact")
        else:
            near = [*high_res_neighbors(smooth, lr_size, c.kernel_size)]
        scores = scores + compare(model.detail_scores, query, near, smooth, lr_size)
    return (scores - 1e7 * ~inside(lr_size, size, c.kernel_size)).softmax(1)


def guidance(model: ReSFU, image: Tensor, size: Size) -> Tensor:
    maps = resized(image, size)
    return maps if model.stem is None else model.stem(maps)


def low_res_key(model: ReSFU, image: Tensor, lr_feats: Tensor) -> Tensor:
    if model.norm_x is not None:
        return model.k(model.norm_x(lr_feats))
    height, width = lr_feats.shape[2:]
    query = model.q(model.norm_y(guidance(model, image, (height * KEY_PIXELS, width * KEY_PIXELS))))
    flat = F.avg_pool2d(query, KEY_PIXELS).flatten(2).mT
    tokens = lr_feats.detach().flatten(2).mT
    components = torch.linalg.svd(tokens - tokens.mean(1, keepdim=True), full_matrices=False).U
    components = components[..., : model.config.key_components]
    mean = flat.mean(1, keepdim=True)
    return model.k((mean + components @ (components.mT @ (flat - mean))).mT.unflatten(2, (height, width)))


def compare(block: nn.Module, query: Tensor, near: list[Tensor], key: Tensor, lr_size: Size) -> Tensor:
    """Scores of a query, the neighbours of its key, and the key at full size, whose statistics a norm takes."""
    if not isinstance(block, PCDCBlock):
        return torch.stack([(query * maps).sum(1) for maps in near], 1)
    normed = torch.stack([group_normed(maps, block.norm, key) for maps in near], 2)
    if isinstance(block, ConcatBlock):
        around = torch.stack([*high_res_neighbors(block.norm(query), lr_size, block.weight.shape[-1])], 2)
        read = torch.cat((around, normed), 1)
    else:
        read = normed - block.norm(query)[:, :, None]
    weight = block.weight.flatten(1)[:, :, None, None]
    maps = F.conv2d(read.flatten(1, 2), weight, block.bias, groups=block.groups)
    first, mix, _, norm, last = block.channel_compressor
    return last(norm(F.relu(mix(first(maps)))))


def group_normed(maps: Tensor, norm: nn.GroupNorm, of: Tensor) -> Tensor:
    """A group norm with the statistics of other maps."""
    grouped = of.unflatten(1, (norm.num_groups, -1)).flatten(2)
    repeat = norm.num_channels // norm.num_groups
    mean, variance = (
        t.repeat_interleave(repeat, 1)[..., None, None] for t in (grouped.mean(2), grouped.var(2, correction=0))
    )
    scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
    return (maps - mean) / (variance + norm.eps).sqrt() * scale + shift


def guided_filter(query: Tensor, key: Tensor, config: ReSFUConfig) -> Tensor:
    radius, scale, eps = config.filter_radius, config.filter_scale, config.filter_eps
    height, width = (max(1, n // scale) for n in query.shape[2:])
    sparse_query, sparse_key = (t[:, :, ::scale, ::scale][:, :, :height, :width] for t in (query, key))
    kernel = query.new_ones(query.shape[1], 1, 2 * radius + 1, 2 * radius + 1)

    def box(maps: Tensor) -> Tensor:
        sums = (F.conv2d(t, kernel, padding=radius, groups=len(kernel)) for t in (maps, torch.ones_like(maps)))
        return next(sums) / next(sums)

    covariance = box(sparse_query * sparse_key) - box(sparse_query) * box(sparse_key)
    slope = covariance / (box(sparse_query.square()) - box(sparse_query).square() + eps)
    offset = box(sparse_key) - slope * box(sparse_query)
    size = query.shape[2], query.shape[3]
    return up(box(slope), size) * query + up(box(offset), size)


def offsets(kernel_size: int) -> list[tuple[int, int]]:
    reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
    return [(dy, dx) for dy in reach for dx in reach]


def low_res_neighbors(maps: Tensor, size: Size, kernel_size: int, coarse: bool) -> Iterator[Tensor]:
    """A low-resolution map read whole cells away from every output pixel, or from the cell that it lies in."""
    places = []
    for pixels, cells in zip(size, maps.shape[2:], strict=True):
        place = (torch.arange(pixels).double() + 0.5) * cells / pixels
        places.append(place.floor() + 0.5 if coarse else place)
    for dy, dx in offsets(kernel_size):
        yield sample(maps, places[0] + dy, places[1] + dx)


def high_res_neighbors(maps: Tensor, lr_size: Size, kernel_size: int) -> Iterator[Tensor]:
    """A map on the output grid, read low-resolution pixels away from every pixel."""
    height, width = maps.shape[2:]
    for dy, dx in offsets(kernel_size):
        rows = torch.arange(height).double() + 0.5 + dy * height / lr_size[0]
        yield sample(maps, rows, torch.arange(width).double() + 0.5 + dx * width / lr_size[1])


def sample(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read [B, C, h, w] bilinearly at rows and columns in cells, the first centre at 0.5; the border is repeated."""
    y, x = rows / maps.shape[2] * 2 - 1, columns / maps.shape[3] * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), -1).to(maps).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def inside(lr_size: Size, size: Size, kernel_size: int) -> Tensor:
    """Which neighbours lie inside the picture, bool [K * K, *size]."""
    axes = [(torch.arange(n) * 2 + 1) * cells // (2 * n) for n, cells in zip(size, lr_size, strict=True)]
    near = []
    for offset in offsets(kernel_size):
        rows, columns = (
            (cell + step >= 0) & (cell + step < cells) for cell, step, cells in zip(axes, offset, lr_size, strict=True)
        )
        near.append(rows[:, None] & columns)
    return torch.stack(near)


def sharpened(maps: Tensor, strengths: Tensor | None) -> Tensor:
    if strengths is None:
        return maps
    binomial = torch.tensor([1.0, 2.0, 1.0])
    once = blurred(maps, binomial)
    return maps + strengths[0] * (maps - once) + strengths[1] * (once - blurred(blurred(once, binomial), binomial))


def blurred(maps: Tensor, taps: Tensor) -> Tensor:
    """Blur with a separable kernel of three taps, scaled to a sum of one; the border is repeated."""
    kernel = torch.outer(taps, taps).to(maps)
    kernel = (kernel / kernel.sum()).expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), kernel, groups=maps.shape[1])


def resized(maps: Tensor, size: Size) -> Tensor:
    """Averaged where it shrinks and interpolated where it grows."""
    pooled = min(maps.shape[2], size[0]), min(maps.shape[3], size[1])
    return up(F.adaptive_avg_pool2d(maps, pooled), size)


def up(maps: Tensor, size: Size) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
