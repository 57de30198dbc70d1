"""Keys for any backbone: what the features' leading principal components explain of a map.

A learned projection of the features ties ReSFU to a backbone. Principal components do too: their order and signs are
arbitrary. The space that they span over the tokens is not, and it says which tokens the features hold alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_ITERATIONS = 4  # of subspaces; enough for spectra that fall slowly
_SPARE = 8  # dimensions more than asked for, which make the leading ones converge faster


def explained_part(maps: Tensor, lr_feats: Tensor, components: int) -> Tensor:
    """The least-squares fit of every channel of `maps` by the features' leading principal components.

    No gradient flows to the features. The result does not change when features are rotated, or their channels
    permuted.

    Args:
        maps: [B, D, h, w].
        lr_feats: [B, C, h, w], with any C.
        components: how many; fewer tokens or channels make fewer.
    Returns:
        [B, D, h, w], with the means of `maps` over the tokens.
    """
    _, channels, height, width = lr_feats.shape
    with torch.no_grad(), torch.autocast(lr_feats.device.type, enabled=False):
        tokens = lr_feats.flatten(2).mT.to(torch.promote_types(lr_feats.dtype, torch.float32))
        tokens = tokens - tokens.mean(1, keepdim=True)
        scores = leading_components(tokens, min(components, height * width, channels))
    flat = maps.flatten(2).mT
    mean = flat.mean(1, keepdim=True)
    scores = scores.to(flat.dtype)  # orthonormal
    return (mean + scores @ (scores.mT @ (flat - mean))).mT.unflatten(2, (height, width))


def leading_components(tokens: Tensor, rank: int) -> Tensor:
    """Orthonormal scores [B, N, rank] of the leading principal components of centred tokens [B, N, C].

    By iteration of a subspace (Halko et al., 2011) from the same start in every call: exact decompositions take longer
    than all the rest of an upsampler when there are a thousand channels.
    """
    channels = tokens.shape[2]
    width = min(rank + _SPARE, channels, tokens.shape[1])
    # Cosines of the channel's number are orthogonal and mean nothing to the features: they serve as random directions.
    angles = torch.outer(torch.arange(channels, device=tokens.device) + 0.5, torch.arange(width, device=tokens.device))
    basis = torch.linalg.qr(tokens @ (angles * (math.pi / channels)).cos().to(tokens.dtype)).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(tokens @ (tokens.mT @ basis)).Q
    inside = basis.mT @ tokens
    return basis @ torch.linalg.eigh(inside @ inside.mT).eigenvectors[..., width - rank :]


def identity_convolution(channels: int) -> nn.Conv2d:
    """A 1x1 convolution that starts as the identity."""
    convolution = nn.Conv2d(channels, channels, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(channels)[:, :, None, None])
        convolution.bias.zero_()  # type: ignore[union-attr]
    return convolution
